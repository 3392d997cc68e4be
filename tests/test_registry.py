"""What the registry gets: an archive with the pack in it and nothing else."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.pack_archive import comfy, committed_tree, packed

ROOT = Path(__file__).resolve().parent.parent
WANTED = {"__init__.py", "pyproject.toml", "README.md", "README.zh.md", "LICENSE", "CHANGELOG.md"}
FOLDERS = {"hypir", "nodes", "workflows", "subgraphs", "web", "locales", "models"}
SMALL_PACK = 20 * 2**20


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return committed_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def archive(tree, tmp_path_factory) -> list[str]:
    with zipfile.ZipFile(packed(tree, tmp_path_factory.mktemp("home"))) as file:
        return file.namelist()


def test_the_registrys_own_check_has_nothing_to_say(tree, tmp_path):
    said = comfy(tree, tmp_path, "node", "validate").lower()
    assert "error" not in said
    assert "warning" not in said


def test_the_archive_holds_the_pack_and_nothing_else(archive, tree):
    tops = {name.split("/")[0] for name in archive}
    assert tops >= WANTED
    assert tops <= WANTED | FOLDERS
    assert {"nodes", "hypir", "workflows", "subgraphs", "web", "locales"} <= tops
    for suffix in (".pth", ".ckpt", ".pyc"):
        assert not [name for name in archive if name.endswith(suffix)]
    others = ("tests", "tools", "pages", "experiments")  # and writers of pages
    assert not [name for name in archive if {*name.split("/")[:-1]} & {*others}]
    weights = [name for name in archive if name.endswith(".safetensors")]
    assert all(name.startswith("models/") for name in weights)
    assert (tree / "node.zip").stat().st_size < SMALL_PACK


def test_the_version_is_that_of_the_changelog():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == version[1]


def test_icon_and_banner_are_there_in_the_registrys_sizes():
    text = (ROOT / "pyproject.toml").read_text()
    for key, most in (("Icon", (800, 400)), ("Banner", (2100, 900))):
        url = re.search(rf'^{key} = "(.+)"', text, re.MULTILINE)[1]
        file = ROOT / url.split("/main/")[1]
        with Image.open(file) as picture:
            assert all(side <= limit for side, limit in zip(picture.size, most, strict=True))
