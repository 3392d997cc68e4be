"""Size in = size out, whatever the size, the channels and the batch."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

SIZES = [(1, 1), (1, 40), (17, 3), (65, 100), (64, 64), (33, 16), (150, 20)]


@pytest.mark.parametrize("size", SIZES)
def test_the_picture_keeps_its_size_from_one_pixel_up(run, sd2, vae, prompt, photo, size):
    image = photo[:, : size[0], : size[1]]
    latent = run("HYPIREncode", image, vae)
    assert [side % 2 for side in latent["samples"].shape[-2:]] == [0, 0]
    restored = run("HYPIRRestore", sd2, prompt, latent)
    result = run("HYPIRDecode", restored, vae, image)
    assert result.shape == image.shape
    assert torch.isfinite(result).all() and result.min() >= 0 and result.max() <= 1
    assert run("HYPIRDecode", restored, vae).shape == image.shape, "also without a reference"


def test_padding_is_a_reflection_so_an_even_size_is_encoded_as_the_host_does(run, vae, photo):
    image = photo[:, :64, :96]
    assert_close(run("HYPIREncode", image, vae)["samples"], vae.encode(image))
    odd = photo[:, :50, :96]
    mirrored = torch.cat([odd, odd.flip(1)[:, :14]], dim=1)
    assert_close(run("HYPIREncode", odd, vae)["samples"], vae.encode(mirrored))


def test_alpha_is_not_seen_and_comes_back_unchanged(run, sd2, vae, prompt, photo):
    image = photo[:, :40, :48]
    alpha = torch.linspace(0, 1, 40 * 48).reshape(1, 40, 48, 1)
    with_alpha = torch.cat([image, alpha], dim=-1)
    latent = run("HYPIREncode", with_alpha, vae)
    assert_close(latent["samples"], run("HYPIREncode", image, vae)["samples"], atol=0, rtol=0)
    restored = run("HYPIRRestore", sd2, prompt, latent)
    result = run("HYPIRDecode", restored, vae, with_alpha)
    assert result.shape == (1, 40, 48, 4)
    assert_close(result[..., 3:], alpha, atol=0, rtol=0)
    plain = run("HYPIRDecode", restored, vae, image)
    assert_close(result[..., :3], plain, atol=0, rtol=0)


def test_a_gray_image_is_taken_as_equal_channels(run, vae, photo):
    gray = photo[:, :32, :32, :1]
    same = run("HYPIREncode", gray.expand(-1, -1, -1, 3), vae)["samples"]
    assert_close(run("HYPIREncode", gray, vae)["samples"], same, atol=0, rtol=0)


def test_an_image_of_a_batch_is_restored_as_alone(run, sd2, vae, prompt, photo):
    batch = torch.cat([photo[:, :40, :56], photo[:, 200:240, 100:156], photo[:, 300:340, :56]])

    def whole_way(image):
        latent = run("HYPIRRestore", sd2, prompt, run("HYPIREncode", image, vae))
        return run("HYPIRDecode", latent, vae, image)

    together = whole_way(batch)
    for i in range(3):
        assert_close(together[i : i + 1], whole_way(batch[i : i + 1]), atol=2e-5, rtol=0)


def test_a_cropped_latent_takes_the_size_of_the_reference(run, host, vae, photo):
    latent = run("HYPIREncode", photo[:, :60, :60], vae)
    cropped = host.core["LatentCrop"]().crop(latent, 32, 32, 0, 0)[0]
    assert run("HYPIRDecode", cropped, vae).shape == (1, 32, 32, 3), "the kept size is stale"
    assert run("HYPIRDecode", cropped, vae, photo[:, :30, :29]).shape == (1, 30, 29, 3)


def test_the_reference_may_have_another_size_for_the_colours(run, vae, photo):
    image = photo[:, :64, :64]
    latent = run("HYPIREncode", image, vae)
    small = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), 2).movedim(1, -1)
    assert run("HYPIRDecode", latent, vae, small).shape == image.shape


def test_the_wavelet_fix_gives_the_tone_of_the_reference(run, vae, photo):
    image = photo[:, :256, :256]
    latent = run("HYPIREncode", image, vae)
    off = run("HYPIRDecode", latent, vae, image, "none")
    fixed = run("HYPIRDecode", latent, vae, image, "wavelet")
    half = run("HYPIRDecode", latent, vae, image, "wavelet", 0.5)

    def tone_error(result):
        blocks = torch.nn.functional.avg_pool2d((result - image).movedim(-1, 1), 64)
        return blocks.abs().mean().item()

    assert tone_error(fixed) < 0.25 * tone_error(off)
    assert tone_error(fixed) < tone_error(half) < tone_error(off)
