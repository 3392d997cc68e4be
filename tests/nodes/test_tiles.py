"""Tiling in the host: what must not depend on it, and what the user may ask."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close


def crop(photo, height, width):
    return photo[:, :height, :width]


def test_one_asked_tile_that_covers_all_is_the_planned_result(run, sd2, vae, prompt, photo):
    image = crop(photo, 120, 200)
    latent = run("HYPIREncode", image, vae)
    asked = run("HYPIREncode", image, vae, tile_size=512)
    assert_close(asked["samples"], latent["samples"], atol=0, rtol=0)
    planned = run("HYPIRRestore", sd2, prompt, latent)
    asked = run("HYPIRRestore", sd2, prompt, latent, tile_size=512)
    assert_close(asked["samples"], planned["samples"], atol=0, rtol=0)


def test_how_many_tiles_go_at_once_does_not_change_the_result(run, sd2, prompt):
    latent = {"samples": torch.randn(2, 4, 24, 32, generator=torch.Generator().manual_seed(1))}
    one, three = (
        run("HYPIRRestore", sd2, prompt, latent, tile_size=128, overlap=64, tile_batch=n)
        for n in (1, 3)
    )
    assert_close(one["samples"], three["samples"], atol=1e-4, rtol=1e-5)


def test_the_same_inputs_give_the_same_bits(run, sd2, vae, prompt, photo):
    image = crop(photo, 200, 320)

    def whole_way():
        latent = run("HYPIREncode", image, vae, 128, 32, "sample", 5)
        latent = run("HYPIRInjectNoise", sd2, latent, 0.3, 5)
        restored = run("HYPIRRestore", sd2, prompt, latent, tile_size=128, overlap=32)
        return run("HYPIRDecode", restored, vae, image, tile_size=128, overlap=32)

    state = torch.get_rng_state()
    first = whole_way()
    assert torch.equal(torch.get_rng_state(), state), "the global random state is not touched"
    torch.manual_seed(99)
    assert torch.equal(whole_way(), first)


def test_the_sampled_posterior_is_drawn_once_and_by_its_seed(run, vae, photo):
    image = crop(photo, 128, 128)
    mean = run("HYPIREncode", image, vae)["samples"]
    draws = torch.cat(
        [run("HYPIREncode", image, vae, 0, -1, "sample", s)["samples"] for s in range(12)]
    )
    assert torch.equal(draws[3:4], run("HYPIREncode", image, vae, 0, -1, "sample", 3)["samples"])
    model = vae.first_stage_model
    moments = model.quant_conv(model.encoder(vae.process_input(image).movedim(-1, 1)))
    std = (0.5 * moments.chunk(2, dim=1)[1]).exp()
    spread = ((draws - mean) / std).std()
    assert abs(spread - 1) < 0.02, "deviations are those of the posterior"


def test_tile_and_overlap_that_cannot_be_used_are_refused_in_one_sentence(run, sd2, vae, prompt):
    latent = {"samples": torch.ones(1, 4, 32, 32)}
    with pytest.raises(ValueError, match=r"tile_size must be a multiple of 64 px.*got 80"):
        run("HYPIRRestore", sd2, prompt, latent, tile_size=80)
    with pytest.raises(ValueError, match=r"tile_size must be .* at least 128 px.*got 64"):
        run("HYPIRRestore", sd2, prompt, latent, tile_size=64)
    with pytest.raises(ValueError, match=r"overlap must be at most 64 px .*got 128"):
        run("HYPIRRestore", sd2, prompt, latent, tile_size=128, overlap=128)
    with pytest.raises(ValueError, match=r"overlap must be a multiple of 8 px, got 33; use 40"):
        run("HYPIRDecode", latent, vae, tile_size=128, overlap=33)
