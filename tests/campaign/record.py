"""What a part did, written down while it runs: a part that ends early shows how far it came."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tools import ROOT
from tools.pages.performance.report import machine

from .parts import Part

RESULTS = ROOT / "docs" / "reliability"
SECONDS_BETWEEN = 10
EXAMPLES = 12
"""Findings kept with their words; all are counted."""


class Record:
    """The course of one part.

    Args:
        name, part: the part.
        asked: how often it is to try.
        seed: of everything random in it.
        folder: where its JSON goes.
    """

    def __init__(self, name: str, part: Part, asked: int, seed: int, folder: Path):
        self.name, self.part, self.asked, self.seed = name, part, asked, seed
        self.random = random.Random(f"{name} {seed}")
        self.done = 0
        self.counts: Counter[str] = Counter()
        self.facts: dict[str, Any] = {}
        self.findings: list[str] = []
        self.found = 0
        self._known: set[str] = set()
        self._file = folder / f"{name}.json"
        self._start = self._written = time.monotonic()
        self._date = datetime.now(timezone.utc).date().isoformat()

    def tried(self, outcome: str) -> None:
        """Count a try by its outcome."""
        self.done += 1
        self.counts[outcome] += 1
        if time.monotonic() - self._written > SECONDS_BETWEEN:
            self.write(finished=False)

    def find(self, problem: str, where: str) -> None:
        """Write down what should not have happened, once for each problem with its first place."""
        self.found += 1
        if problem not in self._known and len(self.findings) < EXAMPLES:
            self._known.add(problem)
            self.findings.append(f"{problem} ({where})"[:2000])
            self.write(finished=False)

    def write(self, finished: bool) -> None:
        self._written = time.monotonic()
        content = {
            "date": self._date,
            "machine": machine(),
            "asked": self.asked,
            "done": self.done,
            "finished": finished,
            "seed": self.seed,
            "seconds": round(self._written - self._start, 1),
            "outcomes": dict(self.counts.most_common()),
            "facts": self.facts,
            "found": self.found,
            "findings": self.findings,
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self._file)

    def end(self) -> None:
        """Write the record and fail if anything was found."""
        self.write(finished=True)
        assert not self.found, f"{self.found} findings, first: " + "\n".join(self.findings)
