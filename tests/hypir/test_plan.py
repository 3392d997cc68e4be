"""What a restoration will take, told before it runs."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from hypir.__main__ import main
from hypir.plan import (
    GIB,
    LARGEST_PX,
    TINY_AUTOENCODER,
    describe_limits,
    describe_stages,
    estimates,
    largest_size,
    plan_stages,
)
from hypir.priors import PRIORS, SD2
from hypir.tile_picture import COLORS, draw_tiles
from hypir.tiling import CELL_PX, LADDER

NEEDED = estimates(SD2, 2)


def test_the_sum_of_the_stages_is_that_of_the_performance_page():
    # docs/performance.md, Computation: counted on the networks themselves
    encode, step, decode = plan_stages(2048, 2048, SD2.tile, NEEDED)
    assert encode.tflop == pytest.approx(20.9, abs=0.06)
    assert step.tflop == pytest.approx(19.3, abs=0.1)
    assert decode.tflop == pytest.approx(44.7, abs=0.06)
    assert describe_stages((encode, step, decode))[-1].endswith("85.0 TFLOP")


def test_the_small_autoencoder_costs_what_is_counted_on_it():
    from diffusers import AutoencoderTiny

    with torch.device("meta"):
        vae = AutoencoderTiny()
        inputs = torch.zeros(1, 3, 768, 512), torch.zeros(1, 4, 96, 64)
    parts = zip((vae.encoder, vae.decoder), inputs, TINY_AUTOENCODER, strict=True)
    for network, given, cost in parts:
        with FlopCounterMode(display=False) as counter:
            network(given)
        assert cost.of(96, 64) == pytest.approx(counter.get_total_flops() / 1e12, rel=1e-3)


@pytest.mark.parametrize("name", PRIORS)
def test_every_size_up_to_the_largest_runs_with_the_planned_tiles(name):
    cost, needed = PRIORS[name].tile, estimates(PRIORS[name], 2)
    total = 3 * GIB
    height, width = largest_size(2, 3, cost, needed, total)
    assert width == pytest.approx(1.5 * height, abs=2)
    for share in (0.25, 0.5, 0.75, 1.0):
        size = int(height * share), int(width * share)
        for stage in plan_stages(*size, cost, needed, total):
            assert stage.tiles == stage.planned and stage.needed <= total
    beyond = plan_stages(height + 16, width + 24, cost, needed, total)
    assert any(stage.tiles != stage.planned for stage in beyond)


def test_a_large_device_takes_any_size_and_a_tiny_one_none():
    assert largest_size(1, 1, SD2.tile, NEEDED, float("inf")) is None
    assert largest_size(1, 9000, SD2.tile, NEEDED, 100 * GIB) is None
    assert largest_size(1, 1, SD2.tile, NEEDED, 1.0) == (0, 0)
    said = [describe_limits(64, 64, SD2.tile, NEEDED, m)[0] for m in (100 * GIB, 1.0)]
    assert "any size" in said[0] and "no size" in said[1]
    assert LARGEST_PX >= 16384


def test_a_device_without_room_for_any_tile_gets_the_smallest():
    for stage in plan_stages(2048, 2048, SD2.tile, NEEDED, 1.0):
        assert max(stage.tiles.rows.tile, stage.tiles.columns.tile) <= LADDER[-1]


def test_memory_is_that_of_the_estimate_for_one_tile():
    encode, step, _ = plan_stages(512, 512, SD2.tile, NEEDED)
    assert encode.needed == 1767 * 512 * 512 * 2  # ComfyUI's formula of an AutoencoderKL
    assert step.needed == pytest.approx(64 * 64 * 2 * 0.01 * 2**20)
    assert plan_stages(512, 512, SD2.tile, {})[0].needed is None


def test_the_drawing_shades_what_tiles_share_and_nothing_else():
    size = (512, 1536)
    stages = plan_stages(*size, SD2.tile, NEEDED)
    image = torch.full((*size, 3), 0.5)
    drawn = draw_tiles(stages, size, image)
    assert drawn.shape == (3, 341, 1024, 3) and drawn.min() >= 0 and drawn.max() <= 1
    for picture, stage in zip(drawn, stages, strict=True):
        starts, tile = stage.tiles.columns.starts, stage.tiles.columns.tile
        assert len(stage.tiles.rows.starts) == 1 and len(starts) > 1
        shared = (starts[1] + starts[0] + tile) / 2 * CELL_PX * 1024 / 1536
        alone = (starts[0] + starts[1]) / 2 * CELL_PX * 1024 / 1536
        assert (picture[300, int(alone)] - 0.5).abs().max() < 0.01
        level = 0.65 * 127.5 + 0.35 * torch.tensor(COLORS[stage.name])
        assert (picture[300, int(shared)] * 255 - level).abs().max() < 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (17, 33)])
def test_a_picture_of_any_size_can_be_drawn(size):
    stages = plan_stages(*size, SD2.tile, NEEDED)
    drawn = draw_tiles(stages, size, None)
    assert max(drawn.shape[1:3]) <= 1024 and min(drawn.shape[1:3]) >= 1


def test_the_command_plans_a_photo_and_draws_its_tiles(tmp_path, capsys):
    Image.fromarray(np.zeros((300, 200, 3), np.uint8)).save(tmp_path / "photo.png")
    words = ["plan", str(tmp_path / "photo.png"), "--scale", "4", "--memory", "8"]
    assert main([*words, "--tiles", str(tmp_path / "tiles.png")]) == 0
    out = capsys.readouterr().out
    assert "800x1200 px, 0.96 megapixels" in out and "any size fits" in out
    with Image.open(tmp_path / "tiles.png") as sheet:
        assert sheet.size == (3 * 683, 1024)


@pytest.mark.parametrize("damage", [b"", b"GIF89a", b"not a picture"])
def test_a_photo_is_read_as_every_command_reads_it(tmp_path, capsys, damage):
    ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    Image.fromarray(ramp).save(tmp_path / "scan.png")
    tiles = ["--tiles", str(tmp_path / "tiles.png")]
    assert main(["plan", str(tmp_path / "scan.png"), *tiles]) == 0
    with Image.open(tmp_path / "tiles.png") as sheet:
        assert np.asarray(sheet).mean() < 200, "16 bits are not all white"
    (tmp_path / "broken.png").write_bytes(damage)
    assert main(["plan", str(tmp_path / "broken.png")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("hypir: ") and "broken.png" in told and told.count("\n") == 1


def test_a_taesd_counts_less_than_the_autoencoder(capsys):
    sums = []
    for more in ([], ["--taesd"]):
        assert main(["plan", "2048x2048", *more]) == 0
        (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("in all"))
        sums.append(float(line.split()[2]))
    assert sums[1] < sums[0] / 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["0x8"], "a size must be at least 1x1 px, got 0x8"),
        (["gone.jpg"], "'gone.jpg' is neither a photo nor a size"),
        (["8x8", "--scale", "0"], "--scale must be a finite number above 0, got 0"),
        (["8x8", "--scale", "nan"], "--scale must be a finite number above 0, got nan"),
        (["8x8", "--memory", "-1"], "--memory must be above 0 GiB, got -1"),
    ],
    ids=str,
)
def test_what_cannot_be_planned_is_said_in_a_sentence(words, sentence, capsys):
    assert main(["plan", *words]) == 1
    assert capsys.readouterr().err.startswith(f"hypir: {sentence}")
