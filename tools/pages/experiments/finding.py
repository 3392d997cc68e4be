"""The result of an experiment: a table, plots and a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

HOLDS, FAILS = "holds", "does not hold"
OPEN, UNDECIDED = "not testable here", "undecided"
NEAR = 0.03
"""Smallest difference in dB that counts, besides the spread over seeds."""


@dataclass(frozen=True)
class Panel:
    """One plot."""

    x: str
    y: str
    curves: dict[str, tuple[list[float], list[float]]]
    """Label -> (x, y)."""


@dataclass(frozen=True)
class Finding:
    """One section of docs/experiments.md."""

    name: str
    """Name of the plot's file."""
    title: str
    claim: str
    """The paper's claim, or the question."""
    method: str
    """The comparison and its size."""
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    verdict: str
    """HOLDS, FAILS, OPEN or UNDECIDED."""
    because: str
    """One sentence with the numbers behind the verdict."""
    panels: tuple[Panel, ...]
    weights: str = ""
    """Lab.weights() of the tested model."""


def clearly_above(a: Sequence[float], b: Sequence[float], least: float = NEAR) -> bool:
    """Whether the mean of a lies above that of b by more than half the wider spread and `least`."""
    spread = max(max(x) - min(x) for x in (a, b)) / 2
    return fmean(a) - fmean(b) > max(spread, least)


def by_comparison(a: Sequence[float], b: Sequence[float]) -> str:
    """HOLDS where a lies clearly above b, FAILS where b lies above a, else UNDECIDED."""
    if clearly_above(a, b):
        return HOLDS
    return FAILS if clearly_above(b, a) else UNDECIDED


def all_of(verdicts: Sequence[str]) -> str:
    """The verdict on a claim with several parts: FAILS if one fails, HOLDS if all hold."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if all(v == HOLDS for v in verdicts) else UNDECIDED
