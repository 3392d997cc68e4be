"""Noise, texture, colour, degradation: the controls as nodes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from hypir.color import low_pass, transfer_color
from hypir.degradation import degrade
from hypir.noise import standard_normal
from hypir.texture import measure_richness


@pytest.fixture
def latent():
    return {"samples": torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(5))}


def test_noise_is_counted_in_units_of_the_scaled_latent(run, sd2, latent):
    noisy = run("HYPIRInjectNoise", sd2, latent, 0.3, 7)["samples"]
    added = (noisy - latent["samples"]) * 0.18215
    for i in range(2):
        assert_close(added[i], 0.3 * standard_normal((4, 16, 24), 7 + i), atol=1e-5, rtol=1e-5)


def test_strength_zero_gives_the_very_same_tensor(run, sd2, latent):
    assert run("HYPIRInjectNoise", sd2, latent, 0.0, 7)["samples"] is latent["samples"]


def test_an_item_keeps_its_noise_wherever_it_stands(run, host, sd2, latent):
    whole = run("HYPIRInjectNoise", sd2, latent, 0.3, 7)["samples"]
    second = host.core["LatentFromBatch"]().frombatch(latent, 1, 1)[0]
    alone = run("HYPIRInjectNoise", sd2, second, 0.3, 7)["samples"]
    assert torch.equal(alone[0], whole[1])


def test_variants_repeat_each_image_with_the_seeds_that_follow(run, sd2, latent):
    one = {"samples": latent["samples"][:1]}
    several = run("HYPIRInjectNoise", sd2, one, 0.3, 7, variants=3)["samples"]
    for i in range(3):
        want = run("HYPIRInjectNoise", sd2, one, 0.3, 7 + i)["samples"]
        assert torch.equal(several[i : i + 1], want)


def test_variants_of_a_batch_stand_in_the_order_of_the_hosts_repeat(run, host, sd2, latent):
    repeated = host.core["RepeatLatentBatch"]().repeat(latent, 3)[0]["samples"]
    several = run("HYPIRInjectNoise", sd2, latent, 1e-6, 7, variants=3)["samples"]
    assert_close(several, repeated, atol=1e-3, rtol=0)


def test_variants_are_restored_and_decoded_as_a_batch(run, sd2, vae, prompt, photo):
    image = photo[:, :50, :60]
    latent = run("HYPIREncode", image, vae)
    several = run("HYPIRInjectNoise", sd2, latent, 0.5, 1, variants=3)
    result = run("HYPIRDecode", run("HYPIRRestore", sd2, prompt, several), vae, image)
    assert result.shape == (3, 50, 60, 3)
    assert (result[0] - result[1]).abs().max() > 0.01


def test_fidelity_takes_detail_of_the_reference(run, vae, latent, photo):
    one = {"samples": latent["samples"][:1]}
    image = torch.cat([photo[:, :128, :192], photo[:, :128, :192, :1]], dim=-1)  # with alpha
    plain = run("HYPIRDecode", one, vae, image, "none")
    assert torch.equal(run("HYPIRDecode", one, vae, image, "none", fidelity=0.0), plain)
    result = run("HYPIRDecode", one, vae, image, "none", fidelity=1.0)
    apart = [(picture - image)[..., :3] for picture in (plain, result)]
    before, after = ((d - low_pass(d)).square().mean() for d in apart)
    assert after < 0.9 * before, "the detail is not nearer to the reference's"
    assert torch.equal(result[..., 3:], image[..., 3:])


def test_fidelity_without_a_reference_is_refused(run, vae, latent):
    with pytest.raises(ValueError, match=r"fidelity 0\.5 needs a reference: connect the enlarged"):
        run("HYPIRDecode", latent, vae, fidelity=0.5)


def test_where_the_mask_is_zero_no_noise_falls(run, sd2, vae, photo):
    latent = run("HYPIREncode", photo[:, :80, :80], vae)
    mask = torch.zeros(1, 80, 80)
    mask[:, 40:] = 1
    noisy = run("HYPIRInjectNoise", sd2, latent, 0.5, 1, mask=mask)["samples"]
    assert torch.equal(noisy[..., :5, :], latent["samples"][..., :5, :])
    assert (noisy[..., 5:, :] != latent["samples"][..., 5:, :]).all()


def test_a_mask_of_another_size_is_refused(run, sd2, vae, photo):
    latent = run("HYPIREncode", photo[:, :80, :80], vae)
    with pytest.raises(ValueError, match=r"mask must have the size .*80x80, got 64x80"):
        run("HYPIRInjectNoise", sd2, latent, 0.5, 1, mask=torch.ones(1, 64, 80))


def test_a_negative_strength_is_refused(run, sd2, latent):
    with pytest.raises(ValueError, match=r"noise strength must be a finite number, at least 0"):
        run("HYPIRInjectNoise", sd2, latent, -0.1, 1)


def test_more_noise_gives_more_spread_over_seeds(run, sd2, prompt, latent):
    """On random weights this proves the mechanics only."""
    one = {"samples": latent["samples"][:1]}
    spread = []
    for strength in (0.0, 0.1, 0.2, 0.3, 0.5):
        several = run("HYPIRInjectNoise", sd2, one, strength, 1, variants=4)
        spread.append(float(run("HYPIRRestore", sd2, prompt, several)["samples"].std(0).mean()))
    # The kernels may round items of a batch differently: equal seeds differ by no more than this.
    assert spread[0] < 1e-4
    assert all(a < b for a, b in pairwise(spread)), spread


def test_measure_texture_gives_the_number_and_a_map_of_the_size(run, photo):
    richness, plane = run("HYPIRMeasureTexture", photo)
    assert abs(richness - float(measure_richness(photo))) < 1e-6
    assert plane.shape == photo.shape[:3] and 0 <= plane.min() and plane.max() <= 1
    mask = torch.zeros(1, 512, 512)
    mask[:, :128, :128] = 1
    part, _ = run("HYPIRMeasureTexture", photo, mask)
    assert abs(part - float(measure_richness(photo[:, :128, :128]))) < 0.02


def soft(photo):
    pixels = photo.movedim(-1, 1)
    small = torch.nn.functional.avg_pool2d(pixels, 4)
    return torch.nn.functional.interpolate(small, scale_factor=4, mode="bicubic").movedim(1, -1)


def test_match_texture_ends_at_the_richness_and_is_monotone(run, photo):
    source = soft(photo).clamp(0, 1)
    own = float(measure_richness(photo))
    assert run("HYPIRMatchTexture", photo, source, own) is photo, "met already"
    reached = []
    for target in (0.5, 0.6, 0.7, 0.8, 0.9):
        result = run("HYPIRMatchTexture", photo, source, target)
        reached.append(float(measure_richness(result)))
        assert abs(reached[-1] - target) < 0.02
    assert reached == sorted(reached)


def test_match_texture_says_when_the_bounds_do_not_allow_it(run, photo, caplog):
    run("HYPIRMatchTexture", photo, soft(photo).clamp(0, 1), 0.0)
    assert "instead of 0.000" in caplog.text


def test_match_color_is_the_correction_of_decode_with_alpha_kept(run, photo):
    image = torch.cat([photo * 0.5, photo[..., :1]], dim=-1)
    result = run("HYPIRMatchColor", image, photo, "adain", 1.0)
    want = transfer_color(photo * 0.5, photo, "adain").clamp(0, 1)
    assert_close(result[..., :3], want)
    assert torch.equal(result[..., 3:], image[..., 3:])
    assert run("HYPIRMatchColor", image, photo, "wavelet", 0.0) is image


def test_degrade_is_the_degradation_of_training_by_seed(run, photo):
    image = torch.cat([photo, photo])
    result = run("HYPIRDegrade", image, "heavy", 4, 3)
    assert result.shape == (2, 128, 128, 3)
    assert torch.equal(result, degrade(image, "heavy", 4, [3, 4]))
    assert not torch.equal(result[0], result[1])
