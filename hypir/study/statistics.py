"""What marks and pairs say about methods: means, differences, agreement, strengths.

A photo is the unit. Marks of one photo by several raters are not independent, so they become one
mean first; the intervals say how far other photos may move a result, for the same raters.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hypir.train.intervals import LEVEL, Mean, mean_interval

from .marks import FIRST, SECOND, SKIP, Answer

LEVEL_Z, POWER_Z = 1.96, 0.8416
"""Quantiles of the normal distribution for an interval of 95 % and for a power of 80 %."""
RELIABLE, TENTATIVE = 0.8, 0.667
"""Krippendorff's limits of alpha for conclusions, and for tentative ones (2004)."""
BOOTSTRAPS = 200
PRIOR = 0.01
"""Regularisation of the Bradley-Terry fit: a method that always wins has a finite strength."""


class Marks(NamedTuple):
    """Numeric marks in columns of equal length."""

    rater: list[str]
    round: list[int]
    photo: list[str]
    method: list[str]
    value: list[float]

    @classmethod
    def of(cls, answers: Iterable[Answer], repeats: bool = False) -> "Marks":
        """The marks among answers, without skips; the hidden repeats or all others."""
        rows = [
            (a.rater, a.question.round, a.question.photo, a.question.method, float(a.value))
            for a in answers
            if a.question.kind == "mark" and a.value != SKIP and a.question.repeat == repeats
        ]
        return (
            cls(*(list(column) for column in zip(*rows, strict=True))) if rows else cls(*[[]] * 5)
        )

    def rows(self) -> list[tuple[str, int, str, str, float]]:
        """Row by row."""
        return list(zip(*self, strict=True))


def by_photo(marks: Marks, round_: int | None = None) -> dict[str, dict[str, float]]:
    """Mean over raters of each method and photo, in one round or in all."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _, number, photo, method, value in marks.rows():
        if round_ in (None, number):
            cells[method, photo].append(value)
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for (method, photo), values in cells.items():
        table[method][photo] = float(np.mean(values))
    return dict(table)


def method_means(marks: Marks, round_: int | None = None) -> dict[str, Mean]:
    """Mean mark of each method with its interval over photos."""
    table = by_photo(marks, round_)
    return {method: mean_interval(list(table[method].values())) for method in sorted(table)}


def low_shares(marks: Marks, low: float) -> dict[str, Mean]:
    """Share of marks of at most `low` of each method, with its interval over photos."""
    shares = Marks(*marks[:4], [float(value <= low) for value in marks.value])
    return method_means(shares)


class Difference(NamedTuple):
    """The mean mark of one method less that of another, over the photos that both have."""

    first: str
    second: str
    mean: Mean
    """Its interval holds for all pairs of methods together (Bonferroni)."""
    spread: float
    """Standard deviation over photos."""

    @property
    def is_found(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.mean.low > 0 or self.mean.high < 0

    @property
    def photos_needed(self) -> float:
        """Photos with which a difference of this size would be found in 80 % of studies."""
        if not self.mean.mean:
            return math.inf
        return ((LEVEL_Z + POWER_Z) * self.spread / self.mean.mean) ** 2

    @property
    def smallest(self) -> float:
        """The difference that this many photos find in 80 % of studies."""
        return (LEVEL_Z + POWER_Z) * self.spread / math.sqrt(self.mean.count)


def differences(marks: Marks) -> list[Difference]:
    """Every two methods compared photo by photo."""
    table = by_photo(marks)
    pairs = list(itertools.combinations(sorted(table), 2))
    found = []
    for first, second in pairs:
        common = sorted(table[first].keys() & table[second].keys())
        gaps = [table[first][photo] - table[second][photo] for photo in common]
        if len(gaps) > 1:
            mean = mean_interval(gaps, 1 - (1 - LEVEL) / len(pairs))
            found.append(Difference(first, second, mean, float(np.std(gaps, ddof=1))))
    return found


def agreement(marks: Marks) -> float | None:
    """Krippendorff's alpha of the raters over all pictures, marks as an interval scale.

    1 is full agreement, 0 what chance gives. A rater's rounds are averaged first.

    Returns:
        None for fewer than two raters, or where all marks are equal.
    """
    import krippendorff

    cells: dict[tuple[str, tuple[str, str]], list[float]] = defaultdict(list)
    for rater, _, photo, method, value in marks.rows():
        cells[rater, (photo, method)].append(value)
    raters = sorted({rater for rater, _ in cells})
    pictures = sorted({picture for _, picture in cells})
    if len(raters) < 2 or len(set(marks.value)) < 2:
        return None
    table = np.full((len(raters), len(pictures)), np.nan)
    for (rater, picture), values in cells.items():
        table[raters.index(rater), pictures.index(picture)] = np.mean(values)
    if (np.isfinite(table).sum(axis=0) < 2).all():
        return None  # no picture has two raters
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="interval"))


def raters_needed(alpha: float) -> float:
    """Raters whose mean has a reliability of 0.8 where one has `alpha` (Spearman and Brown)."""
    return math.inf if alpha <= 0 else RELIABLE * (1 - alpha) / (alpha * (1 - RELIABLE))


def steadiness(answers: Iterable[Answer]) -> dict[str, list[float]]:
    """By rater, how far each hidden repeat lies from the first mark of that picture and round."""
    answers = list(answers)
    first = {row[:4]: row[4] for row in Marks.of(answers).rows()}
    gaps: dict[str, list[float]] = defaultdict(list)
    for *key, value in Marks.of(answers, repeats=True).rows():
        if tuple(key) in first:
            gaps[key[0]].append(abs(value - first[tuple(key)]))
    return dict(gaps)


class Wins(NamedTuple):
    """Contests of two methods on the same photo."""

    photo: list[str]
    first: list[str]
    second: list[str]
    share: list[float]
    """1 if the first won, 0 if the second, 0.5 if neither."""

    @classmethod
    def of_pairs(cls, answers: Iterable[Answer]) -> "Wins":
        """What raters said of pairs, without skips and repeats."""
        shares = {FIRST: 1.0, SECOND: 0.0}
        rows = [
            (a.question.photo, a.question.method, a.question.other, shares.get(a.value, 0.5))
            for a in answers
            if a.question.kind == "pair" and a.value != SKIP and not a.question.repeat
        ]
        return (
            cls(*(list(column) for column in zip(*rows, strict=True))) if rows else cls(*[[]] * 4)
        )

    @classmethod
    def of_marks(cls, marks: Marks) -> "Wins":
        """Who got the higher mark, for each rater, round and photo."""
        groups: dict[tuple, dict[str, float]] = defaultdict(dict)
        for rater, number, photo, method, value in marks.rows():
            groups[rater, number, photo][method] = value
        wins = cls([], [], [], [])
        for (_, _, photo), values in groups.items():
            for first, second in itertools.combinations(sorted(values), 2):
                gap = values[first] - values[second]
                for column, cell in zip(
                    wins, (photo, first, second, (np.sign(gap) + 1) / 2), strict=True
                ):
                    column.append(cell)
        return wins


def strengths(
    wins: Wins, methods: Sequence[str], prior: float = PRIOR, seed: int = 0
) -> dict[str, Mean]:
    """Bradley-Terry strengths: first beats second with 1 / (1 + exp(second - first)).

    A contest that neither won counts as half a win for both (choix's fit takes shares).

    Args:
        wins: the contests.
        methods: whose strengths are meant; their mean is 0.
        prior: choix's alpha; 0 for the plain maximum likelihood, which needs every method to have
            won and lost.
        seed: of the bootstrap over photos that gives the intervals.
    """
    import choix

    index = {method: i for i, method in enumerate(methods)}
    photos = sorted(set(wins.photo))
    counts = np.zeros((len(photos), len(methods), len(methods)))
    for photo, first, second, share in zip(*wins, strict=True):
        place = photos.index(photo)
        counts[place, index[first], index[second]] += share
        counts[place, index[second], index[first]] += 1 - share

    def fit(matrix: np.ndarray) -> np.ndarray:
        return choix.ilsr_pairwise_dense(matrix, alpha=prior)

    best = fit(counts.sum(axis=0))
    random = np.random.default_rng(seed)
    drawn = [
        fit(counts[random.integers(0, len(photos), len(photos))].sum(axis=0))
        for _ in range(BOOTSTRAPS if len(photos) > 4 and prior else 0)
    ]
    nothing = np.full((2, len(methods)), math.nan)
    ends = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0) if drawn else nothing
    return {
        method: Mean(float(best[i]), float(ends[0, i]), float(ends[1, i]), len(photos))
        for method, i in index.items()
    }
