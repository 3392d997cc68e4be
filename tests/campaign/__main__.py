"""`nox -s campaign -- [parts] [--long] [--count N] [--seed N]`: tries the pack hard, many times.

Writes docs/reliability.md. Without parts, all run. Each part is a test, which the suite runs a few
times; here it runs often.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import ROOT
from tools.command_line import Parser, run

from . import page
from .parts import PARTS
from .record import RESULTS


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="nox -s campaign --", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--long", action="store_true", help="the full counts: hours")
    parser.add_argument("--count", type=int, help="how often each part tries")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of what they find")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]!r}, the parts are {', '.join(PARTS)}")
    if options.count is not None and options.count < 1:
        parser.error(f"--count must be at least 1, got {options.count}")
    return options


def main() -> None:
    options = parse()
    failed = []
    for name in options.parts or PARTS:
        part = PARTS[name]
        count = options.count or (part.many if options.long else part.some)
        words = [part.test, f"--campaign={count}", f"--campaign-seed={options.seed}"]
        words.append(f"--campaign-results={options.results}")
        code = pytest.main(["--rootdir", str(ROOT), "-q", "--durations=0", *words])
        failed += [name] if code else []
        if options.results == RESULTS:
            page.write()
    if failed:
        sys.exit(f"findings in {', '.join(failed)}: the files in {options.results} name them")


if __name__ == "__main__":
    run(main)
