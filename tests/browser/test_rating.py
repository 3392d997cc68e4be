"""The page of `python -m hypir rate` in Chromium, used by keyboard only."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hypir.study.marks import read_answers
from tools import ROOT

METHODS, PHOTOS = ("plain_bicubic", "hypir_small"), 10
ARRIVED = "number => document.body.dataset.number === String(number)"


@pytest.fixture
def study(tmp_path) -> Path:
    """Ten photos by two methods; the files tell the method, as the host's PNGs do."""
    for number in range(PHOTOS):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        for folder in (*(f"results/{m}" for m in METHODS), "inputs", "truth"):
            text = PngInfo()
            text.add_text("prompt", folder)
            file = tmp_path / folder / f"holiday_{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file, pnginfo=text)
    return tmp_path


@contextlib.contextmanager
def served(study: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen]]:
    command = [sys.executable, "-m", "hypir", "rate", str(study), "--port", "0", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", process.stdout.readline())[0]
        yield address, process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def visitor(chromium):
    """A function that opens the page as another person would."""
    with contextlib.ExitStack() as stack:

        def visit(address: str):
            context = chromium.new_context()
            stack.callback(context.close)
            page = context.new_page()
            page.goto(address)
            return page

        yield visit


def press(page, key: str, then: int) -> None:
    """Press a key and wait for the question of a number."""
    page.keyboard.press(key)
    page.wait_for_function(ARRIVED, arg=then)


def code_of(page) -> str:
    return page.inner_text("#code").rpartition(" ")[2]


def test_a_session_of_20_marks_by_keyboard_tells_nothing_of_the_method(study, visitor):
    seen: list[str] = []
    pictures: list[bytes] = []

    def keep(answer) -> None:
        seen.append(answer.url + str(answer.headers))
        body = answer.body()
        pictures.append(body) if body[:4] == b"\x89PNG" else seen.append(body.decode())

    with served(study, "--repeats", "0") as (address, _):
        page = visitor(address)
        page.on("response", keep)
        page.reload()
        press(page, "Enter", 0)
        for number, key in enumerate("0123456"):
            press(page, key, number + 1)
        page.keyboard.press("+")
        width = page.evaluate("images.first.clientWidth")
        press(page, "s", 8)  # skip
        assert page.evaluate("images.first.clientWidth") == width  # the zoom is kept
        press(page, "Backspace", 7)
        press(page, "Backspace", 6)
        press(page, "9", 7)  # in place of 6
        page.keyboard.down("i")
        assert page.inner_text("#badge") == "what the method was given"
        page.keyboard.up("i")
        assert page.inner_text("#badge") == "result"
        press(page, "7", 8)
        page.reload()  # in the middle: the code waits in its field
        press(page, "Enter", 8)
        page.keyboard.press("p")
        assert page.inner_text("#title") == "Paused"
        page.keyboard.press("Enter")
        page.keyboard.press("1")
        press(page, "0", 9)
        press(page, "x", 10)
        press(page, "s", 11)
        for number in range(11, 20):
            press(page, "5", number + 1)
        assert page.inner_text("#title") == "Thank you"
        seen.append(page.content())
        code = code_of(page)
    answers = sorted(read_answers(study / "marks"), key=lambda a: a.question.number)
    expected = ["0", "1", "2", "3", "4", "5", "9", "7", "10", "10", "skip", *["5"] * 9]
    assert [a.value for a in answers] == expected
    assert {a.rater for a in answers} == {code}
    assert {(a.question.photo, a.question.method) for a in answers} == {
        (f"holiday_{number}", method) for number in range(PHOTOS) for method in METHODS
    }
    told = "\n".join(seen).lower()
    for name in (*METHODS, "holiday", "results/", str(study).lower()):
        assert name not in told
    assert len(pictures) >= 3 * 20
    for picture in pictures:
        assert not Image.open(io.BytesIO(picture)).info


def test_two_raters_at_once_have_their_own_orders_and_files(study, visitor):
    with served(study, "--repeats", "0") as (address, _):
        pages = [visitor(address) for _ in range(2)]
        for page in pages:
            press(page, "Enter", 0)
        for number in range(6):
            for page, key in zip(pages, "38", strict=True):
                press(page, key, number + 1)
        codes = [code_of(page) for page in pages]
    first, second = (read_answers(study / "marks", code) for code in codes)
    assert [a.value for a in first] == ["3"] * 6 and [a.value for a in second] == ["8"] * 6
    orders = [[(a.question.photo, a.question.method) for a in half] for half in (first, second)]
    assert orders[0] != orders[1]


def test_a_killed_server_loses_no_mark(study, visitor):
    with served(study, "--repeats", "0") as (address, process):
        page = visitor(address)
        press(page, "Enter", 0)
        for number, key in enumerate("4826"):
            press(page, key, number + 1)
        code = code_of(page)
        process.kill()
        process.wait()
        page.keyboard.press("7")
        page.wait_for_selector("#trouble:not(:empty)", state="attached")
        assert "Not saved" in page.inner_text("#trouble")
    assert [a.value for a in read_answers(study / "marks", code)] == ["4", "8", "2", "6"]
    with served(study, "--repeats", "0") as (address, _):
        page = visitor(address)
        page.fill("#rater", code)
        press(page, "Enter", 4)  # where it stopped
        press(page, "7", 5)
    assert [a.value for a in read_answers(study / "marks", code)] == ["4", "8", "2", "6", "7"]


def test_pairs_are_answered_with_a_b_or_no_difference(study, visitor):
    with served(study, "--pairs", "--repeats", "0") as (address, _):
        page = visitor(address)
        press(page, "Enter", 0)
        assert page.inner_text("#badge") == "A"
        page.keyboard.press("b")
        assert page.inner_text("#badge") == "B"
        for number, key in enumerate("120"):
            press(page, key, number + 1)
    values = [answer.value for answer in read_answers(study / "marks")]
    assert values == ["first", "second", "no difference"]
