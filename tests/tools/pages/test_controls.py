"""docs/controls.md: its pictures, its opening, its command."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.pages import controls
from tools.pages.contact_sheet import contact_sheet
from tools.pages.control_sheets import Section

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_of_the_controls_links_exactly_the_pictures_there_are():
    page = (ROOT / "docs" / controls.PAGE).read_text(encoding="ascii")
    linked = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    there = sorted((ROOT / "docs" / controls.PICTURES).iterdir())
    assert linked
    assert sorted(linked) == [f"{controls.PICTURES}/{file.name}" for file in there]
    assert sum(file.stat().st_size for file in there) <= controls.MOST_BYTES
    for file in there:
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            picture.load()


def test_a_page_of_the_small_model_says_so_first(tmp_path):
    opening = controls.opening(controls.parse_arguments([]))
    assert "small model" in opening
    row = [(np.zeros((200, 90, 3), np.uint8), "black"), (np.full((9, 9, 3), 255, np.uint8), "")]
    sections = [Section("A title", "A text.", "sheet", [row], ("a", "b"), [("1", "2")])]
    controls.write_page(tmp_path, sections, opening, "nobody")
    page = (tmp_path / controls.PAGE).read_text()
    assert page.startswith(f"# Controls\n\n{opening}")
    assert "![A title](controls/sheet.png)" in page
    assert "| a | b |\n|---|--:|\n| 1 | 2 |" in page
    with Image.open(tmp_path / "controls" / "sheet.png") as sheet:
        assert sheet.getpixel((20, 20)) == (0, 0, 0)
        assert sheet.getpixel((0, 0)) == (255, 255, 255)
    controls.write_page(tmp_path, [Section("A title", "A text.", "sheet")], opening, "nobody")
    assert list((tmp_path / "controls").iterdir()) == []


def test_a_caption_that_would_run_into_the_next_is_refused():
    row = [(np.zeros((8, 8, 3), np.uint8), "far more words than fit under one picture")]
    with pytest.raises(ValueError, match="must not be wider"):
        contact_sheet([row], 176)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lora", "FILE"], "--lora needs --checkpoint"),
        (["--checkpoint", "FILE"], "need --lora"),
        (["--workflow", "FILE"], "need --lora"),
        (["--photo", "nowhere.png"], "--photo, nowhere.png, does not exist"),
    ],
)
def test_the_weights_of_the_controls_are_given_together(arguments, message, tmp_path):
    (tmp_path / "file").touch()
    given = [str(tmp_path / "file") if word == "FILE" else word for word in arguments]
    with pytest.raises(ValueError, match=message):
        controls.check(controls.parse_arguments(given))
