"""What the benchmarks measure with: accounting of memory, the reference plan, seams, the page."""

import pytest
import torch

from hypir.tiling import run_tiles
from hypir.train.plan.live_bytes import LiveBytes
from tools.pages.performance import reference, report, seams
from tools.pages.performance.__main__ import split_command

KIB = 1024


def floats(count: int) -> torch.Tensor:
    return torch.zeros(count // 4)


def test_live_bytes_are_those_of_the_tensors_alive():
    outside = floats(64 * KIB)
    with LiveBytes() as tracked:
        a = floats(4 * KIB)
        b = outside + 1
        del b
        assert tracked.live == 4 * KIB
        view = a[10:].view(-1)
        a.add_(1)
        outside.mul_(2)
        assert tracked.live == 4 * KIB
        del a
        assert tracked.live == 4 * KIB  # the view keeps the storage
        del view
    assert tracked.live == 0
    assert tracked.peak == 68 * KIB


def test_a_burst_raises_the_peak_only():
    with LiveBytes() as tracked:
        kept = floats(KIB)
        tracked.burst(5 * KIB)
        assert tracked.live == kept.numel() * 4
    assert tracked.peak == 6 * KIB


def test_live_bytes_work_where_nothing_is_computed():
    with LiveBytes() as tracked:
        x = torch.zeros(KIB, device="meta", dtype=torch.bfloat16)
        x = x * 2
    assert (tracked.live, tracked.peak) == (2 * KIB, 4 * KIB)
    assert x.is_meta


@pytest.mark.parametrize(("px", "tiles"), [(512, 1), (1024, 9), (2048, 49), (4096, 225)])
def test_the_reference_plan_has_the_known_number_of_tiles(px, tiles):
    assert reference.count_tiles(px // 8, px // 8) == tiles  # 512 px tiles, 256 px stride


def test_the_reference_plan_ends_at_the_edge():
    starts = reference.starts(100)
    assert starts == [0, 32, 36]


def test_the_reference_blend_keeps_a_pointwise_function():
    z = torch.randn(1, 4, 96, 70, generator=torch.Generator().manual_seed(0))
    result = reference.run_stage(z, lambda tile: 2 * tile, 4)
    # the sum is kept in bfloat16: 8 bits, some additions
    torch.testing.assert_close(result.float(), 2 * z, rtol=0.02, atol=0.02)


def test_the_reference_blend_is_at_its_edge_what_is_known_of_it():
    weights = reference.gaussian_weights(512)
    assert float(weights[256, 0] / weights[256, 255]) == pytest.approx(4e-6, rel=0.1)


def tiled(overlap: int, jump: float) -> tuple[torch.Tensor, torch.Tensor, seams.TilePlan]:
    """A noise picture, whole and in two tiles of which the right one is brighter by `jump`."""
    plan = seams.two_tiles(32, overlap)
    shape = (1, 4, 32, plan.columns.length)
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(shape)
    run_tiles(plan, lambda ts: torch.cat([t.crop(whole) + jump * (t.x > 0) for t in ts]), out)
    return out, whole, plan


@pytest.mark.parametrize("overlap", [0, 4, 16])
def test_tiles_that_agree_have_no_seam(overlap):
    out, whole, plan = tiled(overlap, jump=0.0)
    seam = seams.measure(out, whole, plan.columns, 1)
    assert seam.band == pytest.approx(1, abs=1e-4)
    assert seam.line == pytest.approx(1, abs=1e-3)
    assert seam.difference < 1e-6


def test_a_jump_is_seen_at_its_size():
    # neighbours of unit noise differ by 2 on average (squared); a jump of j adds j^2
    out, whole, plan = tiled(overlap=0, jump=4.0)
    seam = seams.measure(out, whole, plan.columns, 1)
    assert seam.line == pytest.approx(1 + 16 / 2, rel=0.25)
    assert seam.band == pytest.approx(1 + 16 / 2 / (2 * seams.MARGIN + 1), rel=0.25)
    assert seam.line_elsewhere == pytest.approx(1, abs=1e-3)


def test_a_longer_overlap_hides_a_jump():
    found = [seams.measure(*tiled(o, 4.0)[:2], tiled(o, 4.0)[2].columns, 1) for o in (0, 4, 16)]
    assert found[0].line > found[1].line > found[2].line


def test_a_section_of_the_page_is_replaced_and_the_others_stay():
    page = report.replace_section("", "work", "first")
    page = report.replace_section(page, "memory", "other")
    page = report.replace_section(page, "work", "second")
    assert "second" in page and "other" in page and "first" not in page
    assert "Not measured yet: `nox -s bench -- seams`." in page
    assert page == report.replace_section(page, "work", "second")


def test_options_alone_belong_to_restore():
    assert split_command([]) == ("restore", [])
    assert split_command(["--sizes", "512"]) == ("restore", ["--sizes", "512"])
    assert split_command(["seams", "--photos", "x"]) == ("seams", ["--photos", "x"])
