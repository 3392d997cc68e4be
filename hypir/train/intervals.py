"""A mean and how far chance may have moved it: the interval that `evaluate` and `study` report.

The bootstrap's percentile interval is too short for few values. Its level is raised such that for
normal values it has the width of Student's interval (Hesterberg 2015, "What teachers should know
about the bootstrap", The American Statistician 69, section 5.3, the expanded percentile interval).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
FEWEST = 5
"""Values below which no interval is given: resampled, they cannot show their spread. One of 95 %
held the mean of normal values in 90 % of 400 draws of five, 94 % of eight, 95 % of twenty."""


class Mean(NamedTuple):
    """A mean of independent values, usually one per picture."""

    mean: float
    low: float
    """Lower end of the interval; NaN where there are too few values for one."""
    high: float
    """Upper end."""
    count: int
    """How many values there are."""

    def __str__(self) -> str:
        """As a table shows it."""
        if math.isnan(self.low):
            return f"{self.mean:.4f} (of {self.count}, too few for an interval)"
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}] of {self.count}"


def mean_interval(values: Sequence[float], level: float = LEVEL, seed: int = 0) -> Mean:
    """Mean with a bootstrap interval over independent values.

    Args:
        values: finite, at least one.
        level: share of the intervals that hold the true mean, in (0, 1).
        seed: of the resampling; the same seed and values give the same interval.

    Returns:
        The interval is NaN for fewer than five values.
    """
    from scipy.stats import norm, t

    data = np.asarray(values, dtype=float)
    count = len(data)
    if count < FEWEST:
        return Mean(float(data.mean()), math.nan, math.nan, count)
    reach = math.sqrt(count / (count - 1)) * t.ppf((1 + level) / 2, count - 1)
    tail = norm.cdf(-reach)
    drawn = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile(data[drawn].mean(axis=1), [tail, 1 - tail])
    return Mean(float(data.mean()), float(low), float(high), count)
