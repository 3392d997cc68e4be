"""`evaluate`: metrics by name, means with intervals, and what cannot be measured."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from PIL import Image

from hypir.__main__ import main
from hypir.train.evaluate import evaluate
from hypir.train.intervals import mean_interval


@pytest.fixture
def folders(tmp_path):
    """A function that writes pairs of results and references, and gives their folders."""

    def write(pairs: dict[str, tuple[np.ndarray, np.ndarray]]):
        for name, pair in pairs.items():
            for folder, picture in zip(("results", "clean"), pair, strict=True):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(picture).save(tmp_path / folder / f"{name}.png")
        return tmp_path / "results", tmp_path / "clean"

    return write


def noise(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_metric_of_torchmetrics_is_found_by_its_name(folders, capsys):
    results, clean = folders({str(i): (noise(i), noise(i + 9)) for i in range(4)})
    command = ["evaluate", str(results), "--reference", str(clean)]
    command += ["--metric", "torchmetrics:total_variation"]
    assert main([*command, "--metric", "universal_image_quality_index"]) == 0
    output = capsys.readouterr().out
    planes = [noise(i).astype(float) / 255 for i in range(4)]
    # anisotropic: sum of absolute differences of neighbours
    sums = [np.abs(np.diff(p, axis=0)).sum() + np.abs(np.diff(p, axis=1)).sum() for p in planes]
    measured, _ = evaluate(results, clean, names=["total_variation"])
    assert measured["total_variation"].mean == pytest.approx(np.mean(sums), rel=1e-4)
    assert "universal_image_quality_index" in output and "psnr" not in output


def test_an_unknown_metric_is_refused_with_those_that_exist(folders, capsys):
    results, clean = folders({"a": (noise(0), noise(1))})
    command = ["evaluate", str(results), "--reference", str(clean), "--metric"]
    assert main([*command, "torchmetrics:beauty"]) == 1
    told = capsys.readouterr().err
    assert "there is no metric 'torchmetrics:beauty'" in told and "total_variation" in told
    assert main([*command, "other:psnr"]) == 1
    assert "library must be pyiqa or torchmetrics" in capsys.readouterr().err


def test_a_metric_that_compares_needs_a_reference(folders, capsys):
    results, _ = folders({"a": (noise(0), noise(1))})
    assert main(["evaluate", str(results), "--metric", "psnr"]) == 1
    assert "psnr: it compares with a clean picture" in capsys.readouterr().err


def test_equal_unreadable_and_odd_pictures_are_counted_and_the_rest_is_measured(folders, tmp_path):
    odd = {"odd": (noise(5, 30, 31), noise(6, 30, 32)), "small": (noise(7, 3, 5), noise(8, 3, 5))}
    pairs = {"equal": (noise(0), noise(0)), "a": (noise(1), noise(2)), "b": (noise(3), noise(4))}
    results, clean = folders(pairs | odd)
    (results / "torn.png").write_bytes((results / "a.png").read_bytes()[:60])
    (clean / "torn.png").write_bytes((clean / "a.png").read_bytes())
    table = tmp_path / "table.csv"
    means, missing = evaluate(results, clean, table, names=["psnr", "ssim"])
    assert means["psnr"].count == 3 and means["ssim"].count == 3
    assert all(math.isfinite(mean.mean) for mean in means.values())
    told = "\n".join(missing)
    assert "2 of 6 pictures, which the means leave out:" in told
    assert "torn.png" in told and "odd.png has 31x30 px, its reference 32x30" in told
    assert "psnr: 1 of 4 pictures, which its mean leaves out: the picture equals" in told
    assert "ssim: 1 of 4 pictures" in told  # the one below its window
    with open(table) as file:
        rows = {row.pop("picture"): row for row in csv.DictReader(file)}
    assert rows["equal.png"]["psnr"] == "" and float(rows["equal.png"]["ssim"]) == 1
    assert "inf" not in table.read_text() and rows["pictures"]["psnr"] == "3"
    assert float(rows["mean"]["ssim"]) < 1


def test_the_intervals_of_a_mean_hold_the_truth_as_often_as_they_say():
    draws = 400
    for count in (8, 20):
        random = np.random.default_rng(count)
        held = 0
        for _ in range(draws):
            found = mean_interval(random.normal(3.0, 2.0, count))
            held += found.low <= 3.0 <= found.high
        # 95 % and four standard deviations of a share of 400 draws
        assert 0.906 <= held / draws <= 0.994
    assert math.isnan(mean_interval([1.0, 2.0, 3.0, 4.0]).low)
