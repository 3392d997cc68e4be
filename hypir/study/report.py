"""The evaluation of a study as text and pictures: STUDY/report."""

import csv
import math
from collections.abc import Sequence

import numpy as np

from hypir.train.intervals import FEWEST, Mean

from .folder import Study
from .marks import HIGHEST, Answer
from .statistics import (
    RELIABLE,
    TENTATIVE,
    Difference,
    Marks,
    Wins,
    agreement,
    differences,
    low_shares,
    method_means,
    raters_needed,
    steadiness,
    strengths,
)


def write_report(study: Study, answers: Sequence[Answer], low: int) -> str:
    """Write report.md, means.csv and marks.png; returns the text.

    Args:
        study: the study, whose methods and photos count.
        answers: of all raters.
        low: the highest mark that counts as low.

    Raises:
        ValueError: if nobody has marked anything yet.
    """
    known = set(study.methods)
    answers = [
        a for a in answers if {a.question.method, a.question.other or a.question.method} <= known
    ]
    marks, pairs = Marks.of(answers), Wins.of_pairs(answers)
    if not marks.value and not pairs.share:
        raise ValueError(f"there are no marks yet in {study.marks}; `rate` collects them")
    raters = {a.rater for a in answers}
    lines = ["# Marks of the study", ""]
    lines += [
        f"{len(raters)} raters, {len(study.methods)} methods, {len(study.photos)} photos. "
        "Intervals are of 95 %, by bootstrap over photos, for these raters.",
        "",
    ]
    study.report.mkdir(exist_ok=True)
    gaps: list[Difference] = []
    alpha = None
    if marks.value:
        gaps, alpha = differences(marks), agreement(marks)
        lines += _means(study, marks, low)
        lines += _gaps(gaps)
        lines += _agreement(alpha, answers)
        draw_marks(study, marks)
        lines += ["![Marks of each method](marks.png)", ""]
    for wins, source in ((pairs, "pairs"), (Wins.of_marks(marks), "marks")):
        if wins.share:
            lines += _strengths(wins, source)
    lines += ["## What these numbers do not say", ""]
    lines += [f"- {line}" for line in limits(marks, gaps, alpha, len(raters))]
    text = "\n".join(lines) + "\n"
    (study.report / "report.md").write_text(text, encoding="utf-8")
    return text


def _cell(mean: Mean, digits: int = 2) -> str:
    ends = "" if math.isnan(mean.low) else f" [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"
    return f"{mean.mean:.{digits}f}{ends}"


def _means(study: Study, marks: Marks, low: int) -> list[str]:
    rounds = sorted(set(marks.round))
    parts = [("all rounds", method_means(marks))]
    if len(rounds) > 1:
        parts += [(f"round {number}", method_means(marks, number)) for number in rounds]
    shares = low_shares(marks, low)
    columns = [name for name, _ in parts] + [f"share of marks up to {low}", "photos"]
    lines = [
        "## Mean marks",
        "",
        f"| method | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    with open(study.report / "means.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "round", "mean", "low", "high", "photos"])
        for name, means in parts:
            for method, mean in means.items():
                writer.writerow([method, name, *mean])
    every = parts[0][1]
    for method in sorted(every, key=lambda m: -every[m].mean):
        cells = [_cell(means[method]) if method in means else "" for _, means in parts]
        cells += [_cell(shares[method]), str(every[method].count)]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return [*lines, ""]


def _gaps(gaps: list[Difference]) -> list[str]:
    if not gaps:
        return []
    lines = ["## Differences", "", "The intervals hold for all pairs together (Bonferroni).", ""]
    lines += ["| methods | difference of mean marks | found |", "|---|---|---|"]
    for gap in gaps:
        found = "yes" if gap.is_found else "no"
        lines.append(f"| {gap.first} less {gap.second} | {_cell(gap.mean)} | {found} |")
    return [*lines, ""]


def _agreement(alpha: float | None, answers: Sequence[Answer]) -> list[str]:
    lines = ["## Agreement", ""]
    if alpha is not None:
        lines += [f"Krippendorff's alpha between raters: {alpha:.2f} (1: full, 0: chance).", ""]
    steady = steadiness(answers)
    for rater, distances in sorted(steady.items()):
        same = np.mean([distance == 0 for distance in distances])
        lines += [
            f"- {rater}: {len(distances)} hidden repeats, {np.mean(distances):.2f} marks apart on "
            f"average, {same:.0%} equal"
        ]
    return [*lines, ""] if len(lines) > 2 else []


def _strengths(wins: Wins, source: str) -> list[str]:
    methods = sorted({*wins.first, *wins.second})
    found = strengths(wins, methods)
    lines = [f"## Pairwise wins, from {source}", ""]
    lines += [
        "Bradley-Terry strengths: a method beats another with probability 1 / (1 + exp(-d)), d "
        "the difference of their strengths.",
        "",
    ]
    lines += ["| method | strength | beats, of the others' contests |", "|---|---|---|"]
    for method in sorted(methods, key=lambda m: -found[m].mean):
        won = [
            share for first, share in zip(wins.first, wins.share, strict=True) if first == method
        ]
        won += [
            1 - s for second, s in zip(wins.second, wins.share, strict=True) if second == method
        ]
        lines.append(f"| {method} | {_cell(found[method])} | {sum(won):g} of {len(won)} |")
    if any(abs(found[m].low - found[m].high) < 1e-9 for m in methods):
        lines += [
            "",
            "A method that won or lost every contest has no largest strength: the number is "
            "the fit's own bound, and its interval says nothing.",
        ]
    return [*lines, ""]


def limits(marks: Marks, gaps: list[Difference], alpha: float | None, raters: int) -> list[str]:
    """Sentences about what the numbers do not allow to say, and how much more would."""
    lines = []
    photos = len(set(marks.photo))
    if marks.value and photos < FEWEST:
        lines.append(
            f"Nothing about other photos: {photos} are too few, {FEWEST} are needed at least."
        )
    for gap in gaps:
        if gap.is_found or math.isnan(gap.mean.low):
            continue
        needed = gap.photos_needed
        more = (
            "no number of photos would"
            if math.isinf(needed)
            else f"about {math.ceil(needed)} photos would"
        )
        lines.append(
            f"Which of {gap.first} and {gap.second} is better: with {gap.mean.count} photos a "
            f"difference below {gap.smallest:.2f} is usually missed; {more} show the one seen "
            f"({gap.mean.mean:.2f}) in 80 % of studies, if it is real."
        )
    if raters == 1:
        lines.append("Whether other people agree: one rater cannot tell; ask three or more.")
    elif alpha is not None and alpha < RELIABLE:
        needed = raters_needed(alpha)
        often = "no number of raters" if math.isinf(needed) else f"about {math.ceil(needed)} raters"
        weight = (
            "only tentative conclusions" if alpha >= TENTATIVE else "no conclusion from one rater"
        )
        lines.append(
            f"What a single rater's mark is worth: alpha {alpha:.2f} allows {weight} (limits "
            f"{TENTATIVE} and {RELIABLE}); the mean of {often} has a reliability of {RELIABLE}."
        )
    lines.append(
        "What other raters would say: the intervals are for the raters asked, not for people at "
        "large."
    )
    return lines


def draw_marks(study: Study, marks: Marks) -> None:
    """Share of each mark from 0 to 10 by method, into marks.png."""
    from matplotlib.figure import Figure

    methods = sorted(set(marks.method))
    figure = Figure(figsize=(6, 1.6 * len(methods) + 0.6), layout="constrained")
    panels = figure.subplots(len(methods), 1, sharex=True, squeeze=False)[:, 0]
    for panel, method in zip(panels, methods, strict=True):
        values = [v for m, v in zip(marks.method, marks.value, strict=True) if m == method]
        shares = [values.count(mark) / len(values) for mark in range(HIGHEST + 1)]
        panel.bar(range(HIGHEST + 1), shares, color="tab:blue")
        panel.axvline(float(np.mean(values)), color="tab:red")
        panel.set_title(f"{method}: mean {np.mean(values):.2f} of {len(values)} marks", fontsize=9)
        panel.set_ylabel("share")
    panels[-1].set_xlabel("mark")
    panels[-1].set_xticks(range(HIGHEST + 1))
    figure.savefig(study.report / "marks.png", dpi=100)
