"""Loss terms against formulas written another way, and what the published targets do."""

from __future__ import annotations

import math

import pytest
import torch

from hypir.metrics import band_correlations
from hypir.texture import measure_richness
from hypir.train.adversary import accuracy, discriminator_loss, generator_loss
from hypir.train.losses import (
    band_loss,
    energy_loss,
    pixel_loss,
    pyramid_loss,
    richness_loss,
)
from hypir.train.perceptual import Lpips


def test_the_pyramid_of_equal_pictures_is_zero_and_of_a_constant_is_the_constant():
    picture = torch.rand(1, 3, 32, 32)
    assert pyramid_loss(picture, picture) == 0
    # a constant passes every reduction, and only the last level sees it
    assert float(pyramid_loss(picture + 0.25, picture)) == pytest.approx(0.25, abs=1e-6)


def test_with_the_logarithm_a_ruined_picture_weighs_as_much_as_a_good_one():
    target = torch.zeros(2, 3, 8, 8)
    result = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.8)])
    result.requires_grad_(True)
    ratios = {}
    for logarithm in (False, True):
        loss = pixel_loss(result, target, logarithm)
        (slope,) = torch.autograd.grad(loss, result)
        # what a gain of one per cent in each picture is worth
        gains = (slope * result.detach()).sum(dim=(1, 2, 3))
        ratios[logarithm] = float(gains[1] / gains[0])
    assert ratios[False] == pytest.approx(64, rel=1e-4)
    assert ratios[True] == pytest.approx(1, abs=0.02)
    assert float(pixel_loss(result, target)) == pytest.approx((0.01 + 0.64) / 2, rel=1e-5)
    logs = [math.log(0.01 + 1e-4), math.log(0.64 + 1e-4)]
    assert float(pixel_loss(result, target, True)) == pytest.approx(sum(logs) / 2, rel=1e-5)


def test_every_level_of_the_pyramid_weighs_the_same():
    # a checkerboard lives in the finest level alone; its mean absolute value is 1
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)[None, None]
    assert float(pyramid_loss(board, torch.zeros_like(board))) == pytest.approx(1.0, abs=1e-6)


def test_the_amount_of_detail_counts_and_not_its_place():
    generator = torch.Generator().manual_seed(0)
    grain, other = torch.randn(2, 1, 3, 64, 64, generator=generator)
    blank = torch.zeros_like(grain)
    assert energy_loss(grain, grain) == 0
    assert energy_loss(other, grain) < 0.3 * energy_loss(blank, grain)
    assert energy_loss(-grain, grain) == 0


def test_a_checkerboard_has_its_detail_in_one_band_of_one_octave():
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)[None, None]
    # root mean square 1 in one of three bands, nothing in the octaves above
    assert float(energy_loss(board, torch.zeros_like(board))) == pytest.approx(1 / 3, abs=1e-4)


def _board(amplitudes: torch.Tensor) -> torch.Tensor:
    """A checkerboard whose 2x2 squares have amplitudes (h, w): detail in one band of one octave."""
    return torch.kron(amplitudes, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))[None, None]


def test_small_squares_ask_for_detail_everywhere_and_large_ones_in_all():
    target = torch.ones(16, 16)
    result = torch.zeros_like(target)
    result[:, :8] = math.sqrt(2)  # all of it in one half
    result, target = _board(result), _board(target)
    small = (math.sqrt(2) - 1 + 1) / 2 / 3  # mean of both halves, and of three bands
    assert float(energy_loss(result, target, 4, 1)) == pytest.approx(small, abs=1e-4)
    for side in (16, 99):  # more than there is: all of it
        assert float(energy_loss(result, target, side, 1)) < 1e-6


def test_the_amount_of_detail_asks_for_a_gain_and_not_for_noise():
    result = _board(torch.randn(8, 8)).requires_grad_(True)
    energy_loss(result, _board(3 * torch.ones(8, 8)), 8, 1).backward()
    gain = result.grad / result.detach()
    torch.testing.assert_close(gain, torch.full_like(gain, float(gain[0, 0, 0, 0])))
    assert gain[0, 0, 0, 0] < 0  # down the slope: larger


def test_turned_detail_is_the_same_amount_in_all():
    grain = torch.randn(1, 3, 64, 64) * torch.linspace(0.1, 1, 64)
    turned = grain.roll(32, -1)
    assert energy_loss(turned, grain, 64) < 1e-6 < energy_loss(turned, grain, 4)


def test_binary_cross_entropy_at_zero_logits_is_log_two_per_level():
    levels = [torch.zeros(2, 1, 3, 3), torch.zeros(2, 1)]
    assert float(generator_loss(levels, "bce", 0.8)) == pytest.approx(2 * math.log(2))
    assert float(discriminator_loss(levels, levels, "bce", 0.8)) == pytest.approx(2 * math.log(2))


def test_the_published_target_turns_the_generator_round_past_its_logit():
    turning = math.log(0.8 / 0.2)  # 1.386
    slopes = []
    for logit in (turning - 0.5, turning, turning + 0.5):
        x = torch.tensor([[logit]], requires_grad=True)
        generator_loss([x], "bce", 0.8).backward()
        slopes.append(float(x.grad))
    assert slopes[0] < 0 < slopes[2] and slopes[1] == pytest.approx(0, abs=1e-6)
    x = torch.tensor([[turning + 0.5]], requires_grad=True)
    generator_loss([x], "bce", 1.0).backward()
    assert float(x.grad) < 0


def test_hinge_pays_for_what_lies_within_the_margin():
    real, fake = [torch.tensor([[0.5], [2.0]])], [torch.tensor([[-3.0], [0.5]])]
    # (0.5 + 0) / 2 for real, (0 + 1.5) / 2 for fake, halved
    assert float(discriminator_loss(real, fake, "hinge", 0.8)) == pytest.approx(0.5)
    assert float(generator_loss(fake, "hinge", 0.8)) == pytest.approx(1.25)


def test_accuracy_counts_pairs_in_the_right_order():
    real, fake = [torch.tensor([[1.0], [-1.5]])], [torch.tensor([[-1.0], [-2.0]])]
    assert float(accuracy(real, fake)) == pytest.approx(0.75)


def test_lpips_takes_a_backbone_from_a_file_and_is_zero_for_equal_pictures(tmp_path):
    from torchvision.models import vgg16

    torch.manual_seed(0)
    torch.save(vgg16(weights=None).state_dict(), tmp_path / "vgg16.pth")
    lpips = Lpips(str(tmp_path / "vgg16.pth"))
    again = Lpips(str(tmp_path / "vgg16.pth"))
    a, b = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    assert float(lpips(a, a)) == 0 and float(lpips(a, b)) > 0
    assert torch.equal(lpips(a, b), again(a, b))
    assert not any(p.requires_grad for p in lpips.parameters())


def test_a_missing_lpips_backbone_is_named_with_its_address(tmp_path):
    with pytest.raises(ValueError, match=r"vgg16-397923af.pth and pass it with --lpips-backbone"):
        Lpips(str(tmp_path / "none.pth"))


def test_with_the_logarithm_faint_detail_counts_as_much_as_strong():
    target = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for contrast in (0.1, 1.0):
        loss = energy_loss(0.5 * contrast * target, contrast * target, 16, 2, logarithm=True)
        assert float(loss) == pytest.approx(2 * math.log(2), abs=0.1)  # of two octaves
    strong, faint = (energy_loss(0.5 * c * target, c * target, 16, 2) for c in (1.0, 0.1))
    assert float(strong / faint) == pytest.approx(10, rel=0.01)


def test_the_richness_of_a_result_is_compared_with_the_one_asked():
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels = 0.1 * noise * torch.tensor([0.3, 1.0])[:, None, None, None]
    measured = measure_richness((pixels.movedim(1, -1) + 1) / 2)
    off = torch.tensor([0.2, -0.1])
    assert float(richness_loss(pixels, measured + off)) == pytest.approx(0.15, abs=1e-4)
    flat = torch.zeros(1, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(richness_loss(flat, torch.ones(1)), flat)
    assert torch.isfinite(slope).all()


def test_octaves_are_counted_from_the_finest_on():
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)[None, None]
    coarse = board.repeat_interleave(2, 2).repeat_interleave(2, 3)
    blank = torch.zeros_like(coarse)
    assert float(energy_loss(coarse, blank, 4, 1)) < 1e-6
    assert float(energy_loss(coarse, blank, 4, 2)) == pytest.approx(1 / 3, abs=1e-4)


def test_bands_count_the_place_of_detail_and_not_its_amount():
    generator = torch.Generator().manual_seed(0)
    grain, other = torch.randn(2, 1, 3, 64, 64, generator=generator)
    assert float(band_loss(grain, grain)) == pytest.approx(0, abs=1e-3)
    assert float(band_loss(0.3 * grain, grain)) == pytest.approx(0, abs=1e-3)
    assert float(band_loss(-grain, grain)) == pytest.approx(2, abs=1e-3)
    # chance: the coarsest band has 64 coefficients
    assert float(band_loss(other, grain)) == pytest.approx(1, abs=0.1)


def test_bands_are_those_that_quality_is_measured_by():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 2, 3, 256, 256, generator=generator)
    a, b = (x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1) for x in (a, a + b))
    want = 1 - band_correlations(a.movedim(1, -1), b.movedim(1, -1)).mean()
    # means of bands are taken off there; noise has next to none
    assert float(band_loss(a, b)) == pytest.approx(float(want), abs=0.01)


def test_an_empty_band_asks_for_nothing():
    flat = torch.zeros(1, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(band_loss(flat, torch.zeros(1, 3, 16, 16)), flat)
    assert slope.abs().max() == 0
