"""Single stages, where the whole run would be too large a frame."""

from __future__ import annotations

import io
import resource

import numpy as np
import pytest
from PIL import Image

from hypir.archive.photo import Photo
from hypir.archive.stages import Read, Write


def row(**values):
    task = {"id": 1, "source": "a.png", "target": "a.png", "mtime": 1.0, "known_sha256": ""}
    return task | values


def picture(side: int = 8) -> bytes:
    values = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def test_a_photo_removed_while_the_run_goes_on_is_reported(tmp_path):
    done = Read(str(tmp_path), str(tmp_path / "out"))(row())
    assert done["error"] == "it cannot be read or written (No such file or directory)"


def test_a_photo_with_the_content_that_was_restored_before_is_not_done_again(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    read = Read(str(tmp_path), str(tmp_path / "out"))
    digest = read(row())["sha256"]
    assert not read(row(known_sha256=digest))["unchanged"]  # its result is not there
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"result")
    assert read(row(known_sha256=digest))["unchanged"]
    assert not read(row(known_sha256="another"))["unchanged"]


def restored(png: bytes):
    carried = {f"photo_{name}": value for name, value in vars(Photo((8, 8))).items()}
    zero = dict.fromkeys((*Write.REPORT, *Write.TIMES), 0) | {"error": "", "fatal": ""}
    return row(**zero) | row(**carried, png=png)


def test_a_disk_that_takes_no_more_leaves_no_part_of_a_file(tmp_path):
    write = Write(str(tmp_path), "keep", None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 2**10, before[1]))
    try:
        done = write(restored(picture(400)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done["error"] == "it cannot be read or written (File too large)"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    assert write(restored(picture(400)))["error"] == ""
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize("error", ["", "no picture"])
def test_what_failed_before_is_passed_on_and_not_written(tmp_path, error):
    done = Write(str(tmp_path), "keep", None)(restored(picture()) | {"error": error})
    assert done["error"] == error
    assert (tmp_path / "a.png").exists() is not bool(error)
