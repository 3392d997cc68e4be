"""The command from the folder to the report, on the photos that people have."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.http

ROOT = Path(__file__).parents[2]
LONG = "n" * 251
TAKEN = "1931:05:17 12:30:00"
SCALE = "0.4"  # a single pixel becomes none, which the workflow cannot do


def archive(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hypir", "archive", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def states(target: Path) -> dict[str, tuple[str, str]]:
    database = sqlite3.connect(target / ".hypir" / "manifest.sqlite")
    found = database.execute("SELECT source, state, error FROM photos").fetchall()
    database.close()
    return {source: (state, error) for source, state, error in found}


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def files(folder: Path) -> set[str]:
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and ".hypir" not in file.parts
    }


@pytest.fixture(scope="module")
def worst(tmp_path_factory) -> Path:
    """Photos of every kind, four of which cannot be restored."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    cat = data.chelsea()[:90, :150]
    taken = Image.Exif()
    taken[0x8769], taken[0x0112] = {0x9003: TAKEN}, 6
    Image.fromarray(cat).save(folder / "turned.jpg", exif=taken.tobytes())
    Image.fromarray(cat[::-1]).save(folder / "sub" / "turned.jpg")
    Image.fromarray(cat).convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(cat).save(folder / "\u732b \u00e9.webp", lossless=True)
    Image.fromarray(cat[:20, :20]).save(folder / f"{LONG}.png")
    Image.fromarray(np.dstack([cat, cat[..., 0]])).save(folder / "cut out.png")
    deep = (cat.astype(np.uint16) * 257)[:40, :60]
    (folder / "scan.png").write_bytes(imagecodecs.png_encode(deep))
    Image.fromarray(cat[:1, :1]).save(folder / "one pixel.png")
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("not a picture")
    (folder / "cut off.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:1500])
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("restored")


@pytest.fixture(scope="module")
def first(worst, target) -> subprocess.CompletedProcess[str]:
    return archive(worst, target, "--scale", SCALE)


BAD = {"one pixel.png", "empty.jpg", "text.png", "cut off.jpg"}


def test_every_photo_is_restored_or_reported_with_its_reason(first, worst, target):
    assert first.returncode == 1, first.stderr
    found = states(target)
    assert found.keys() == files(worst)
    assert {name for name, (state, _) in found.items() if state == "failed"} == BAD
    assert files(target) == files(worst) - BAD
    assert "ImageScaleBy" in found["one pixel.png"][1]
    for name in BAD:
        assert found[name][1] in first.stdout
        assert "\n" not in found[name][1]
    assert "7 photos done, 4 failed" in first.stdout
    assert "Traceback" not in first.stderr + first.stdout
    assert not (target / ".hypir" / "parts").exists()


def test_results_keep_what_the_photos_carry(first, target):
    with Image.open(target / "turned.jpg") as turned:
        assert turned.size == (36, 60)
        assert turned.getexif().get_ifd(0x8769)[0x9003] == TAKEN
        assert turned.getexif().get(0x0112, 1) == 1
    with Image.open(target / "cut out.png") as cut_out:
        assert cut_out.mode == "RGBA"
    scan = imagecodecs.png_decode((target / "scan.png").read_bytes())
    assert scan.dtype == np.uint16
    assert (scan % 257).any()  # not bytes that were stretched


def test_a_result_is_that_of_the_command_for_one_photo(first, worst, target, tmp_path):
    name = "\u732b \u00e9.webp"
    script = ROOT / "tools" / "commands" / "restore.py"
    words = [str(worst / name), str(tmp_path / "alone.webp"), "--scale", SCALE]
    subprocess.run([sys.executable, str(script), *words], check=True)
    assert np.array_equal(pixels(tmp_path / "alone.webp"), pixels(target / name))


def test_the_settings_of_the_run_lie_beside_the_results(first, target):
    (file,) = (target / ".hypir").glob("settings-*.json")
    text = file.read_text()
    assert "weights_sha256" in text
    assert '"scale": 0.4' in text


def test_the_same_command_does_only_what_is_missing_or_changed(first, worst, target):
    for name in BAD:
        (worst / name).unlink()
    before = {name: (target / name).stat() for name in files(target)}
    (target / "print.jpg").unlink()
    os.utime(worst / "scan.png", (1, 1))
    Image.fromarray(pixels(worst / "sub" / "turned.jpg")[:, ::-1]).save(
        worst / "sub" / "turned.jpg"
    )
    again = archive(worst, target, "--scale", SCALE)
    assert again.returncode == 0, again.stderr
    assert "3 photos to restore, 4 done already" in again.stdout
    assert "7 photos done, 0 failed, 4 no longer in the source" in again.stdout
    after = {name: (target / name).stat() for name in files(target)}
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name].st_ino != before[name].st_ino}
    assert changed == {"print.jpg", "sub/turned.jpg"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent", "{tmp}/out"], "the folder absent does not exist"),
        (["{tmp}", "{tmp}"], "must be another folder than the source"),
        (["{tmp}", "{tmp}/file/out"], r"file/out cannot be written to"),
        (["{tmp}", "{tmp}/out", "--set", "timestep=3"], "--set needs"),
        (["{tmp}", "{tmp}/out", "--quality", "0"], "--quality must be from 1 to 100"),
        (["{tmp}", "memory://out"], "with --manifest FILE"),
    ],
)
def test_a_wrong_request_ends_with_one_sentence_before_anything_starts(
    tmp_path, capsys, words, message
):
    from hypir.__main__ import main

    (tmp_path / "file").touch()
    code = main(["archive", *(word.format(tmp=tmp_path) for word in words)])
    said = capsys.readouterr().err
    assert code == 1
    assert message in said
    assert said.count("\n") == 1
