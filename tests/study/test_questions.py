"""What raters are asked, and what is kept of their answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from hypir.__main__ import main
from hypir.study.folder import open_study
from hypir.study.marks import Answer, add_answer, read_answers
from hypir.study.questions import questions
from hypir.study.rating import Rating, application, is_loopback
from tests.coroutines import run_coroutine

METHODS, PHOTOS = ("a", "b", "c"), tuple(f"p{i}" for i in range(10))


def test_every_picture_is_asked_about_once_a_round_and_a_share_again():
    asked = questions(METHODS, PHOTOS, "key", rounds=2, repeats=0.2)
    assert [q.number for q in asked] == list(range(2 * 36))
    for round_ in (1, 2):
        inside = [q for q in asked if q.round == round_]
        once = Counter((q.photo, q.method) for q in inside if not q.repeat)
        assert len(once) == 30 and set(once.values()) == {1}
        places = {(q.photo, q.method): q.number for q in inside if not q.repeat}
        again = [q for q in inside if q.repeat]
        assert len(again) == 6
        assert all(q.number > places[q.photo, q.method] + 1 for q in again)


def test_an_order_is_the_raters_own_and_found_again():
    one = questions(METHODS, PHOTOS, "study/anna")
    assert one == questions(METHODS, PHOTOS, "study/anna")
    other = questions(METHODS, PHOTOS, "study/bert")
    assert one != other and {q[3:6] for q in one} == {q[3:6] for q in other}
    # more rounds leave the first as it was, so that a study can be extended
    assert questions(METHODS, PHOTOS, "study/anna", rounds=2)[: len(one)] == one


def test_pairs_ask_about_every_two_methods_with_sides_drawn():
    asked = questions(METHODS, PHOTOS, "key", pairs=True, repeats=0)
    assert len(asked) == 3 * 10
    assert all({q.method, q.other} <= set(METHODS) and q.method != q.other for q in asked)
    assert 5 < sum(q.method < q.other for q in asked) < 25


@pytest.fixture
def study(tmp_path):
    for method in ("a", "b"):
        folder = tmp_path / "results" / method
        folder.mkdir(parents=True)
        for photo in ("p", "q"):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{photo}.png")
    return tmp_path


def test_a_line_cut_off_by_a_power_cut_costs_that_line_alone(study):
    marks = study / "marks"
    asked = questions(("a", "b"), ("p", "q"), "key", repeats=0)
    for question, value in zip(asked[:3], "375", strict=True):
        add_answer(marks, Answer("anna", question, value), 1.0)
    file = marks / "anna.csv"
    file.write_bytes(file.read_bytes()[:-9])
    add_answer(marks, Answer("anna", asked[3], "9"), 1.0)
    assert [a.value for a in read_answers(marks)] == ["3", "7", "9"]


def test_a_second_answer_takes_the_place_of_the_first_and_both_stay_in_the_file(study):
    (asked, *_) = questions(("a", "b"), ("p", "q"), "key")
    for value in ("3", "skip", "4"):
        add_answer(study / "marks", Answer("anna", asked, value), 1.0)
    assert [a.value for a in read_answers(study / "marks")] == ["4"]
    assert len((study / "marks" / "anna.csv").read_text().splitlines()) == 4


def test_an_address_beyond_this_machine_needs_the_token_and_this_machine_its_name(study):
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("example.org")
    rating = Rating(open_study(study))

    async def statuses(app, asked) -> list[int]:
        async with TestClient(TestServer(app)) as client:
            found = []
            for path, headers in asked:
                answer = await client.get(path, headers=headers)
                found.append(answer.status)
            return found

    asked = [("/", {}), ("/?token=wrong", {}), ("/?token=right", {}), ("/state", {})]
    app = application(rating, token="right", local=False)
    assert run_coroutine(statuses(app, asked)) == [403, 403, 200, 200]  # then the cookie counts
    asked = [("/", {}), ("/", {"Host": "evil.example:80"}), ("/state?rater=../../etc", {})]
    assert run_coroutine(statuses(application(rating), asked)) == [200, 403, 400]


def test_wrong_studies_and_options_get_a_sentence(study, tmp_path, capsys):
    for words, told in (
        (["rate", str(tmp_path / "none")], "must hold results/METHOD/PHOTO.png"),
        (["rate", str(study), "--rounds", "0"], "at least one round, got 0"),
        (["rate", str(study), "--repeats", "2"], "must be in [0, 0.5], got 2"),
        (["study", str(study)], "there are no marks yet"),
    ):
        assert main(words) == 1
        assert told in capsys.readouterr().err
    (study / "results" / "b" / "p.png").unlink()
    assert open_study(study).left_out == ("p",)
    (study / "results" / "b" / "q.png").unlink()
    with pytest.raises(ValueError, match="no photo has a result of each"):
        open_study(study)
