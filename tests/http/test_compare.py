"""`python -m hypir compare`: three methods through a host, and one whose weights are absent."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from hypir.__main__ import main
from hypir.study.folder import open_study
from hypir.study.methods import READY

pytestmark = pytest.mark.http


def test_three_methods_are_compared_and_one_without_its_weights_is_named(tmp_path, cat, capsys):
    photos, study = tmp_path / "photos", tmp_path / "study"
    photos.mkdir()
    for name, part in (("eye", cat[100:166, 120:202]), ("ear", cat[20:84, 60:124])):
        Image.fromarray(part).save(photos / f"{name}.png")
    (photos / "torn.jpg").write_bytes(b"no picture")
    command = ["compare", str(photos), "--out", str(study), "--degrade", "medium", "--scale", "2"]
    command += ["--method", "bicubic", "--method", f"again={READY['bicubic']}", "--metric", "psnr"]
    command += ["--method", "hypir_small", "--method", "upscale_model", "--repeats", "2"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "upscale_model is left out: ComfyUI does not have its weights RealESRGAN_x4plus" in told
    assert "torn.jpg must be a whole picture" in told
    opened = open_study(study)
    assert opened.methods == ("again", "bicubic", "hypir_small") and opened.photos == ("ear", "eye")
    pictures = {key: np.asarray(Image.open(file)) for key, file in opened.files.items()}
    assert pictures["inputs", "eye"].shape == (33, 41, 3)
    for method in ("truth", *opened.methods):
        assert pictures[method, "eye"].shape == (66, 82, 3)
        assert not Image.open(opened.files[method, "eye"]).info
    assert np.array_equal(pictures["again", "eye"], pictures["bicubic", "eye"])
    assert not np.array_equal(pictures["hypir_small", "eye"], pictures["bicubic", "eye"])
    with open(study / "times.csv") as file:
        runs = list(csv.DictReader(file))
    assert [run["method"] for run in runs[:4]] == ["bicubic", "again", "hypir_small", "again"]
    assert len(runs) == 3 * 2 * 2 and all(float(run["seconds"]) > 0 for run in runs)
    assert all(0.1 < float(run["peak_gib"]) < 100 for run in runs)
    table = (study / "metrics" / "hypir_small.csv").read_text()
    assert table.startswith("picture,psnr") and "mean," in table
    page = (study / "index.html").read_text(encoding="utf-8")
    assert page.count("class=pair") == 6 and "src=data:" in page and "http" not in page
    assert main(command) == 1
    assert "must be a new folder, but has results" in capsys.readouterr().err
