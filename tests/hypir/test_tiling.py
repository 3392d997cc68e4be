"""The tile plan and the blend: cover, partition of unity, least work, the ladder."""

import time
from itertools import product
from math import ceil

import pytest
import torch
from torch.testing import assert_close

from hypir.priors import PRIORS, SD2
from hypir.tiling import (
    CELL_PX,
    LADDER,
    VAE_COST,
    Axis,
    TileCost,
    TilePlan,
    cells,
    lower_limit,
    plan_tiles,
    run_tiles,
)

COSTS = {prior.name: prior.tile for prior in PRIORS.values()} | {"vae": VAE_COST}
every_cost = pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
SIZES = [(1, 1), (7, 300), (64, 64), (129, 129), (150, 40), (256, 256), (301, 173), (1000, 70)]
ASKED = [(16, 0), (16, 8), (32, 4), (32, 24), (48, 40), (64, -1), (128, 64)]
"""(tile, overlap), overlaps beyond half a tile among them."""


def axes(plan: TilePlan) -> tuple[Axis, Axis]:
    return plan.rows, plan.columns


def check_axis(axis: Axis, length: int, overlap: int) -> None:
    assert axis.length == length
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.tile == length
    for a, b in zip(axis.starts, axis.starts[1:], strict=False):
        assert 0 < b - a <= axis.tile - overlap


def check_weights(axis: Axis, scale: int = 1) -> None:
    total = torch.zeros(axis.length * scale)
    for start, weights in zip(axis.starts, axis.weights(scale), strict=True):
        assert weights.shape == (axis.tile * scale,)
        assert bool((weights > 0).all())
        total[start * scale : (start + axis.tile) * scale] += weights
    assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


@every_cost
def test_planned_tiles_cover_everything_and_blend_to_one(cost):
    for size in SIZES:
        for axis, length in zip(axes(plan_tiles(*size, cost)), size, strict=True):
            check_axis(axis, length, cost.overlap)
            check_weights(axis)


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_asked_tiles_cover_everything_and_blend_to_one(asked):
    tile, overlap = asked
    for size in SIZES:
        plan = plan_tiles(*size, SD2.tile, tile=tile, overlap=overlap)
        for axis, length in zip(axes(plan), size, strict=True):
            assert axis.tile == min(tile, length)
            check_axis(axis, length, max(overlap, 0))
            check_weights(axis)
            check_weights(axis, scale=CELL_PX)


def test_the_ramp_is_half_a_cosine_between_two_tiles():
    first, second = Axis(12, 8, (0, 4)).weights()
    # (1 + cos(pi u)) / 2 at u = 1/8, 3/8, 5/8, 7/8
    assert_close(first[4:], torch.tensor([0.9619398, 0.6913417, 0.3086583, 0.0380602]))
    assert_close(first[:4], torch.ones(4))
    assert_close(second, first.flip(0))


def test_2048_px_are_nine_tiles_of_96_cells_for_sd2():
    plan = plan_tiles(256, 256, SD2.tile)
    for axis in axes(plan):
        assert (axis.tile, axis.starts) == (96, (0, 80, 160))  # overlap 16
    assert plan.describe() == "9 tiles of 768x768 px"


@every_cost
def test_a_picture_of_the_training_size_is_one_tile(cost):
    plan = plan_tiles(cost.smallest, cost.smallest, cost)
    assert len(plan.boxes) == 1
    px = cost.smallest * CELL_PX
    assert plan.describe() == f"1 tile of {px}x{px} px"


@every_cost
def test_every_size_to_300_cells_is_planned_fast_within_the_limits(cost):
    begin = time.process_time()
    for n in range(1, 301):
        for axis in axes(plan_tiles(n, 301 - n, cost)):
            assert axis.tile <= cost.largest
            if axis.tile < axis.length:
                assert axis.tile >= cost.smallest
                assert axis.tile % cost.align == 0
    assert time.process_time() - begin < 5


def test_a_huge_picture_with_much_overlap_is_planned_fast():
    begin = time.process_time()
    plan_tiles(10_000, 9_000, SD2.tile, overlap=64)  # 80,000 px
    assert time.process_time() - begin < 1


@every_cost
@pytest.mark.parametrize("size", [(100, 100), (256, 256), (90, 301)], ids=str)
def test_the_plan_is_the_least_work_of_all_tile_sizes(cost, size):
    def choices(length):
        sides = set(range(cost.smallest, cost.largest + 1, cost.align))
        return sides | ({length} if length <= cost.largest else set())

    def tiles(length, side):
        return 1 if side >= length else ceil((length - cost.overlap) / (side - cost.overlap))

    def work(h, w):
        n = min(h, size[0]) * min(w, size[1])
        one = cost.constant + cost.linear * n + cost.quadratic * n * n
        return tiles(size[0], h) * tiles(size[1], w) * one

    least = min(work(h, w) for h, w in product(choices(size[0]), choices(size[1])))
    plan = plan_tiles(*size, cost)
    assert len(plan.boxes) * cost.of(plan.rows.tile, plan.columns.tile) == pytest.approx(least)


@every_cost
def test_the_same_arguments_give_the_same_plan(cost):
    for size in SIZES:
        assert plan_tiles(*size, cost) == plan_tiles(*size, cost)


ASKED_OF_NODES = [{}, {"overlap": 64}, {"tile": 144}, {"tile": 128, "overlap": 64}]


@every_cost
@pytest.mark.parametrize("asked", ASKED_OF_NODES, ids=str)
def test_out_of_memory_leads_down_the_ladder_to_its_end(cost, asked):
    # once "min() arg is an empty sequence" for any step below the smallest planned tile
    for size in SIZES:
        plan = plan_tiles(*size, cost, **asked)
        while (limit := lower_limit(plan)) is not None:
            assert limit in LADDER
            before = max(axis.tile for axis in axes(plan))
            plan = plan_tiles(*size, cost, **asked, limit=limit)
            for axis, length in zip(axes(plan), size, strict=True):
                assert axis.tile <= limit < before
                check_axis(axis, length, 0)
                check_weights(axis)
        assert max(axis.tile for axis in axes(plan)) <= LADDER[-1]


def test_the_next_step_is_the_largest_below_the_longest_side():
    assert lower_limit(plan_tiles(300, 300, COSTS["flux"], tile=160)) == 128
    assert lower_limit(TilePlan(Axis(40, 40, (0,)), Axis(65, 65, (0,)))) == 64
    assert lower_limit(TilePlan(Axis(32, 32, (0,)), Axis(1, 1, (0,)))) is None


@pytest.mark.parametrize("cost", [SD2.tile, VAE_COST], ids=["align 8", "align 4"])
def test_an_asked_tile_that_cannot_be_used_is_refused(cost):
    px = cost.align * CELL_PX
    for tile in (cost.align, 2 * cost.align + 1):
        sentence = f"multiple of {px} px and at least {2 * px} px here, got {tile * CELL_PX}; use 0"
        with pytest.raises(ValueError, match=sentence):
            plan_tiles(100, 100, cost, tile=tile)
    with pytest.raises(ValueError, match=f"at most {512 - px} px for a tile of 512 px, got 512;"):
        plan_tiles(100, 100, cost, tile=64, overlap=64)
    plan_tiles(100, 100, cost, tile=64, overlap=64 - cost.align)


def test_pixels_are_whole_cells_or_refused():
    assert [cells(px, "tile_size") for px in (0, 8, 512)] == [0, 1, 64]
    assert cells(-1, "overlap") == -1  # planned
    with pytest.raises(ValueError, match="overlap must be a multiple of 8 px, got 100; use 104"):
        cells(100, "overlap")


def run(plan: TilePlan, source: torch.Tensor, function, scale: int = 1, **options) -> torch.Tensor:
    out = torch.zeros(*source.shape[:2], source.shape[2] * scale, source.shape[3] * scale)
    run_tiles(
        plan,
        lambda tiles: function(torch.cat([tile.crop(source) for tile in tiles])),
        out,
        scale,
        **options,
    )
    return out


def picture(*size: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("asked", [(0, -1), *ASKED], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (130, 40), (33, 181)], ids=str)
def test_a_pointwise_function_is_unchanged_by_tiling(asked, size):
    source = picture(*size)
    plan = plan_tiles(*size, SD2.tile, *asked)
    for batch in (1, 5):
        result = run(plan, source, torch.sin, batch=batch)
        assert_close(result, source.sin(), rtol=0, atol=1e-6)


def test_any_function_is_unchanged_when_one_tile_covers_all():
    source = picture(90, 100)
    plan = plan_tiles(90, 100, SD2.tile)
    assert len(plan.boxes) == 1
    result = run(plan, source, lambda x: x.flip(-1) * x.roll(3, -2))
    assert torch.equal(result, source.flip(-1) * source.roll(3, -2))


def test_an_enlarging_function_lands_at_its_scale():
    def enlarge(x):
        return x.repeat_interleave(CELL_PX, -1).repeat_interleave(CELL_PX, -2)

    source = picture(40, 75)
    plan = plan_tiles(40, 75, VAE_COST, tile=32)
    result = run(plan, source, enlarge, CELL_PX)
    assert_close(result, enlarge(source), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kept", [(1, 1), (65, 70), (33, 80)], ids=str)
def test_what_lies_beyond_the_output_is_dropped(kept):
    source = picture(80, 80)
    plan = plan_tiles(80, 80, VAE_COST, tile=32)  # the last tiles begin beyond a 1x1 output
    out = torch.zeros(2, 3, *kept)
    run_tiles(plan, lambda tiles: torch.cat([t.crop(source) for t in tiles]), out)
    assert_close(out, source[..., : kept[0], : kept[1]], rtol=0, atol=1e-6)


def test_progress_counts_every_tile_and_items_stay_apart_when_asked():
    source = picture(100, 20, batch=3)
    plan = plan_tiles(100, 20, VAE_COST, tile=32)
    seen, groups = [], []

    def process(tiles):
        groups.append([tile.item for tile in tiles])
        return torch.cat([tile.crop(source) for tile in tiles])

    out = torch.zeros_like(source)
    run_tiles(
        plan,
        process,
        out,
        batch=3,
        mix_items=False,
        on_batch=lambda done, total, so_far: seen.append((done, total, so_far is out)),
    )
    count = 3 * len(plan.boxes)
    assert [done for done, *_ in seen] == torch.tensor([len(g) for g in groups]).cumsum(0).tolist()
    assert seen[-1] == (count, count, True)
    assert all(len(set(group)) == 1 for group in groups)


def test_the_cost_of_a_tile_is_its_polynomial():
    cost = TileCost(1.0, 0.5, 0.25, smallest=8, largest=16, overlap=2, align=2)
    assert cost.of(2, 3) == 1 + 0.5 * 6 + 0.25 * 36
