"""docs/reliability.md, made of what the parts wrote down."""

from __future__ import annotations

import json
from pathlib import Path

from tools import ROOT
from tools.pages.markdown import table

from .parts import PARTS, Part
from .record import RESULTS

PAGE = ROOT / "docs" / "reliability.md"
MENDED = RESULTS / "mended.md"
INTRODUCTION = """# Reliability

Written by `nox -s campaign`; do not edit by hand. The campaign does to the pack what users, disks
and graphics cards do, many times, and counts what should not happen. `nox -s campaign` takes
minutes on two cores; `nox -s campaign -- --long` takes hours and tries as often as it can.
`nox -s campaign -- files kills --count 50 --seed 3` runs some parts with other numbers. The tests
run every part a few times.
"""


def read(folder: Path = RESULTS) -> dict[str, dict]:
    """What each part wrote down; parts that never ran are absent."""
    files = {name: folder / f"{name}.json" for name in PARTS}
    return {n: json.loads(f.read_text(encoding="utf-8")) for n, f in files.items() if f.is_file()}


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def row(part: Part, result: dict | None) -> list[str]:
    if result is None:
        return [part.title, "not run", "", "", "", ""]
    done, asked = result["done"], result["asked"]
    count = f"{done:,} {part.unit}"
    if not result["finished"]:
        count += f" of {asked:,}; not finished"
    found = str(result["found"])
    return [
        part.title,
        count,
        found,
        duration(result["seconds"]),
        result["date"],
        result["machine"],
    ]


def section(part: Part, result: dict | None) -> str:
    text = f"## {part.title}\n\n{part.shows[0].upper()}{part.shows[1:]}\n"
    if result is None:
        return text + "\nNot run.\n"
    text += f"\nSeed {result['seed']}. Outcomes:\n\n"
    outcomes = [(name, f"{count:,}") for name, count in result["outcomes"].items()]
    text += table(("outcome", "count"), outcomes) + "\n"
    if result["facts"]:
        text += "\n" + "".join(f"- {name}: {value}\n" for name, value in result["facts"].items())
    if result["found"]:
        shown = result["findings"]
        text += f"\n**{result['found']} findings**, here {len(shown)}:\n\n"
        text += "".join("- " + " ".join(finding.split()) + "\n" for finding in shown)
    return text


def write(page: Path = PAGE, folder: Path = RESULTS, mended: Path = MENDED) -> None:
    results = read(folder)
    rows = [row(part, results.get(name)) for name, part in PARTS.items()]
    head = ("part", "tried", "findings", "duration", "date", "machine")
    parts = [INTRODUCTION, table(head, rows) + "\n"]
    if mended.is_file():
        parts.append(mended.read_text(encoding="utf-8"))
    parts += [section(part, results.get(name)) for name, part in PARTS.items()]
    page.write_text("\n".join(parts), encoding="utf-8")
