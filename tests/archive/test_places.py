"""Folders as people have them, here and elsewhere."""

from __future__ import annotations

import os

import fsspec
import pytest

from hypir.archive.places import OWN, open_place


def names(place, **options):
    return [found.name for found in place.walk(**options) if not found.error]


def test_a_folder_is_listed_with_its_subfolders_in_order_and_without_hidden_files(tmp_path):
    for name in ("b.jpg", "a/z.png", "a/deeper/y.png", ".hidden/x.png", "a/._z.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"abc")
    place = open_place(str(tmp_path))
    assert names(place) == ["b.jpg", "a/z.png", "a/deeper/y.png"]
    assert names(place, without=str(tmp_path / "a" / "deeper")) == ["b.jpg", "a/z.png"]
    assert {found.size for found in place.walk()} == {3}


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "photo.png").write_bytes(b"x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert names(open_place(str(tmp_path))) == ["a/photo.png"]


def test_names_that_are_no_unicode_are_reported_and_not_lost(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as file:
        file.write(b"x")
    (found,) = open_place(str(tmp_path)).walk()
    assert "not Unicode" in found.error
    assert found.name == r"caf\xe9.jpg"


@pytest.mark.parametrize(
    "address", ["{folder}/target", "file://{folder}/target", "memory://target"]
)
def test_a_file_appears_whole_wherever_it_is_written(tmp_path, address):
    place = open_place(address.format(folder=tmp_path))
    for content in (b"first", b"second"):
        place.write("with a/\u00e9\u732b.png", content)
        assert place.read("with a/\u00e9\u732b.png") == content
        assert place.size("with a/\u00e9\u732b.png") == len(content)
    assert place.size("absent.png") is None
    assert names(place) == ["with a/\u00e9\u732b.png"]
    place.delete_folder(f"{OWN}/parts")
    place.delete_folder(f"{OWN}/parts")
    if address.startswith("memory"):
        fsspec.filesystem("memory").rm("/target", recursive=True)


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    place = open_place(str(tmp_path))
    name = "n" * 251 + ".png"
    place.write(name, b"abc")
    assert place.read(name) == b"abc"


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    place = open_place(str(tmp_path))
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        place.write("taken", b"abc")
    assert list((tmp_path / OWN / "parts").iterdir()) == []


def test_an_address_that_nothing_opens_is_refused():
    with pytest.raises(ValueError, match=r"nowhere://x cannot be opened"):
        open_place("nowhere://x")
