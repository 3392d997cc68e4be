"""The composition of a training step's time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

PARTS = {
    "data": "waiting for data",
    "settle": "reading losses",
    "ema": "averages",
    "rest": "rates, seeds, other",
    "log": "log line",
    "probe": "gradient norm per loss",
    "save": "checkpoint and export",
}
"""All of a step but "work", which is forward, backward, clipping and optimizer."""


@dataclass
class Run:
    """One way of doing a few steps."""

    parts: list[dict[str, float]] = field(default_factory=list)
    """Seconds by part, one entry per step that counts; "whole" is the step's wall clock."""
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of the training process per step."""
    rare: dict[str, float] = field(default_factory=dict)
    """Seconds of one log line, probe and checkpoint."""
    peak: int = 0
    state: int = 0

    @property
    def seconds(self) -> float:
        """Median step, without its log line."""
        return statistics.median(p["whole"] - p.get("log", 0.0) for p in self.parts)


@dataclass(frozen=True)
class Budget:
    """Seconds of a mean step by part, rare ones with their share."""

    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def overhead(self) -> float:
        return 1 - self.seconds["work"] / self.total

    def share(self, part: str) -> float:
        return self.seconds.get(part, 0.0) / self.total

    @property
    def largest(self) -> str:
        return max(PARTS, key=self.share)


def make_budget(
    steps: list[dict[str, float]], rare: Mapping[str, float], every: Mapping[str, int]
) -> Budget:
    """Means over steps, so that a wait in every third step counts, and rare parts on top.

    Args:
        steps: seconds by part; "step" holds data, settle and probe, "whole" all.
        rare: seconds of one log line, probe, checkpoint.
        every: how often these come, 0 = never.
    """

    def mean(part: str) -> float:
        return statistics.fmean(s.get(part, 0.0) for s in steps)

    inside = mean("data") + mean("settle") + mean("probe")
    result = {"work": mean("step") - inside}
    result |= {part: mean(part) for part in ("data", "settle", "ema")}
    result["rest"] = max(0.0, mean("whole") - mean("step") - mean("ema") - mean("log"))
    result |= {part: seconds / every[part] for part, seconds in rare.items() if every[part]}
    return Budget(result)
