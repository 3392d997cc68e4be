"""Statistics against known answers: raters made of a mean, a bias and noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from PIL import Image

from hypir.__main__ import main
from hypir.study.folder import open_study
from hypir.study.marks import Answer, Question, add_answer
from hypir.study.questions import questions
from hypir.study.statistics import (
    Marks,
    Wins,
    agreement,
    differences,
    method_means,
    raters_needed,
    steadiness,
    strengths,
)

PHOTOS, DRAWS = 24, 200
BIASES = {"anna": -0.5, "bert": 0.0, "cleo": 0.8}
# 95 % and four standard deviations of a share of 200 draws
COVERED = (0.885, 1.0)


def draw(random: np.random.Generator, means: dict[str, float]) -> Marks:
    """Whole marks: the method's mean, the photo's difficulty, the rater's bias, and noise."""
    difficulty = random.normal(0, 0.6, PHOTOS)
    rows = [
        (rater, 1, str(photo), method, mean + difficulty[photo] + bias + random.normal(0, 1))
        for (rater, bias), photo, (method, mean) in itertools.product(
            BIASES.items(), range(PHOTOS), means.items()
        )
    ]
    rater, number, photo, method, value = (list(column) for column in zip(*rows, strict=True))
    return Marks(rater, number, photo, method, [float(v) for v in np.clip(np.round(value), 0, 10)])


def test_intervals_hold_the_true_mean_in_95_of_100_studies():
    means = {"a": 4.6, "b": 5.3}
    held = dict.fromkeys(means, 0)
    for seed in range(DRAWS):
        found = method_means(draw(np.random.default_rng(seed), means))
        for method, mean in means.items():
            true = mean + np.mean(list(BIASES.values()))
            held[method] += found[method].low <= true <= found[method].high
    for count in held.values():
        assert COVERED[0] <= count / DRAWS <= COVERED[1]


def test_a_planted_difference_is_found_and_none_is_not():
    found = {"planted": 0, "none": 0}
    for seed in range(DRAWS):
        marks = draw(np.random.default_rng(seed), {"a": 5.0, "b": 5.0, "c": 6.0})
        gaps = {(gap.first, gap.second): gap for gap in differences(marks)}
        found["none"] += gaps["a", "b"].is_found
        found["planted"] += gaps["a", "c"].is_found and gaps["a", "c"].mean.high < 0
    assert found["planted"] / DRAWS > 0.95
    # one of three pairs, each at 5 % / 3; four standard deviations more
    assert found["none"] / DRAWS <= 0.054


def test_the_photos_that_a_difference_needs_find_it_in_80_of_100_studies():
    gap = differences(draw(np.random.default_rng(1), {"a": 5.0, "b": 5.3}))[0]
    # Lehr's rule: 8 times the variance over the square of the difference, here 7.85
    assert gap.photos_needed == pytest.approx(7.85 * (gap.spread / gap.mean.mean) ** 2, rel=1e-3)
    assert gap.smallest == pytest.approx(math.sqrt(7.85 / PHOTOS) * gap.spread, rel=1e-3)


def test_agreement_is_krippendorffs():
    # the example of Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section F
    # (Wikipedia's reliability data): interval alpha 0.811
    rows = (
        "*****34121133*3",
        "1*213343*******",
        "**21344*21133*4",
    )
    cells = [
        (f"r{rater}", 1, str(unit), "m", float(mark))
        for rater, row in enumerate(rows)
        for unit, mark in enumerate(row)
        if mark != "*"
    ]
    alpha = agreement(Marks(*(list(c) for c in zip(*cells, strict=True))))
    assert alpha == pytest.approx(0.811, abs=5e-4)
    assert agreement(Marks(["a"] * 2, [1] * 2, ["p", "q"], ["m"] * 2, [1.0, 2.0])) is None
    assert raters_needed(0.5) == pytest.approx(4) and raters_needed(0.0) == math.inf


def test_two_methods_differ_in_strength_by_the_logarithm_of_their_odds():
    wins = Wins(["p"] * 40, ["a"] * 40, ["b"] * 40, [1.0] * 28 + [0.0] * 8 + [0.5] * 4)
    found = strengths(wins, ["a", "b"], prior=0)
    assert found["a"].mean - found["b"].mean == pytest.approx(math.log(30 / 10), abs=1e-4)


def test_planted_strengths_are_found():
    random, true = np.random.default_rng(0), {"a": 0.0, "b": 0.7, "c": 1.6}
    wins = Wins([], [], [], [])
    for photo in range(600):
        for first, second in itertools.combinations(true, 2):
            won = random.random() < 1 / (1 + math.exp(true[second] - true[first]))
            for column, cell in zip(wins, (str(photo), first, second, float(won)), strict=True):
                column.append(cell)
    found = strengths(wins, list(true))
    for method, strength in true.items():
        assert found[method].low <= strength - np.mean(list(true.values())) <= found[method].high


def test_marks_become_contests_of_the_methods_on_a_photo():
    marks = Marks(["r"] * 3, [1] * 3, ["p"] * 3, ["a", "b", "c"], [3.0, 3.0, 5.0])
    wins = Wins.of_marks(marks)
    rows = list(zip(wins.first, wins.second, wins.share, strict=True))
    assert rows == [("a", "b", 0.5), ("a", "c", 0.0), ("b", "c", 0.0)]


def test_a_repeat_is_compared_with_the_first_mark_and_stays_out_of_the_means():
    asked = [Question("mark", 1, n, "p", "m", "", n == 1) for n in range(2)]
    answers = [Answer("r", q, v) for q, v in zip(asked, ("4", "7"), strict=True)]
    assert steadiness(answers) == {"r": [3.0]}
    assert Marks.of(answers).value == [4.0]


def test_the_command_reports_a_study_and_what_it_does_not_say(tmp_path, capsys):
    for method in ("bicubic", "hypir"):
        folder = tmp_path / "results" / method
        folder.mkdir(parents=True)
        for photo in range(8):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / f"{photo}.png")
    study, random = open_study(tmp_path), np.random.default_rng(0)
    for rater in ("anna", "bert"):
        for question in questions(study.methods, study.photos, rater, rounds=2, repeats=0.25):
            mark = random.normal(3 if question.method == "bicubic" else 7, 1)
            value = str(int(np.clip(round(mark), 0, 10)))
            add_answer(study.marks, Answer(rater, question, value), 1.0)
        for question in questions(study.methods, study.photos, rater, pairs=True, repeats=0):
            value = "first" if question.method == "hypir" else "second"
            add_answer(study.marks, Answer(rater, question, value), 1.0)
    assert main(["study", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "2 raters, 2 methods, 8 photos" in told
    assert "| method | all rounds | round 1 | round 2 | share of marks up to 3 | photos |" in told
    assert "Krippendorff's alpha" in told and "4 hidden repeats" not in told.split("anna")[0]
    assert "| bicubic less hypir | -" in told and told.count("| yes |") == 1
    assert "from pairs" in told and "| hypir | " in told and "16 of 16" in told
    assert "for the raters asked, not for people at large" in told
    report = tmp_path / "report"
    assert (report / "report.md").read_text() + "\n" == told
    assert Image.open(report / "marks.png").size[0] > 300
    assert (report / "means.csv").read_text().count("hypir,") == 3
