"""What an experiment gives: a table, curves, and a verdict."""

from dataclasses import dataclass, field

HOLDS, FAILS, OPEN = "holds", "does not hold", "not testable here"


@dataclass(frozen=True)
class Finding:
    """One section of docs/experiments.md."""

    name: str
    """Of its picture's file."""
    title: str
    claim: str
    """What the paper says, or what was to be found out."""
    method: str
    """What was compared, at what size."""
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    verdict: str
    """HOLDS, FAILS or OPEN."""
    because: str
    """One sentence with the numbers that decide."""
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    """Label -> (x, y)."""
    axes: tuple[str, str] = ("", "")
