"""What a network or an autoencoder gives that is not finite ends the run with a sentence."""

from __future__ import annotations

import copy

import pytest
import torch

NAN, INF = float("nan"), float("inf")


def spoilt(model, value: float):
    """A MODEL whose network overflows in one cell of a tile that holds the mark."""
    model = model.clone()

    def overflow(apply, arguments):
        out = apply(arguments["input"], arguments["timestep"], **arguments["c"]).clone()
        marked = arguments["input"].amax((1, 2, 3)) > 50
        out[marked, 0, 3, 3] = value
        return out

    model.set_model_unet_function_wrapper(overflow)
    return model


@pytest.fixture
def latent():
    """Two pictures of three tiles each; the second tile of the second one holds the mark."""
    samples = torch.randn(2, 4, 16, 48, generator=torch.Generator().manual_seed(5))
    samples[1, 0, 0, 16] = 1000.0
    return {"samples": samples}


@pytest.mark.parametrize(("value", "tile_batch"), [(NAN, 1), (-INF, 4)])
def test_the_network_names_the_tile_of_the_first_fault(run, sd2, prompt, latent, value, tile_batch):
    options = {"tile_size": 128, "overlap": 0, "tile_batch": tile_batch}
    with pytest.raises(ValueError) as error:
        run("HYPIRRestore", spoilt(sd2, value), prompt, latent, **options)
    message = str(error.value)
    assert "HYPIR step" in message and "1 of 1024 values" in message
    assert "tile of 128x128 px at (128, 0) of image 2" in message
    assert "float32" in message and "\n" not in message
    calm = {"samples": latent["samples"].clamp(max=5)}
    run("HYPIRRestore", spoilt(sd2, value), prompt, calm, **options)


def test_a_half_precision_network_is_told_another(run, host, sd2, prompt, latent):
    half = host.core["ModelComputeDtype"]().patch(spoilt(sd2, NAN), "bf16")[0]
    with pytest.raises(ValueError, match=r"computed in bfloat16; run the model in another prec"):
        run("HYPIRRestore", half, prompt, latent)


def test_through_the_hosts_own_sampler_too(run, host, sd2, prompt, latent):
    model = spoilt(sd2, NAN)
    sampler, sigmas = run("HYPIRSampler", model)
    node = host.core["SamplerCustom"]
    with pytest.raises(ValueError, match="1 of 3072 values from the network are NaN"):
        node.execute(model, False, 0, 1.0, prompt, prompt, sampler, sigmas, latent)


def with_overflow(vae, name: str, precision: torch.dtype):
    """A VAE that overflows in its last row of four, and says it runs in this precision."""
    vae = copy.copy(vae)
    vae.vae_dtype = precision
    call = getattr(vae, name)

    def overflow(*args, **options):
        result = call(*args, **options).clone()
        result[..., -1:, :] = NAN
        return result

    setattr(vae, name, overflow)
    return vae


def test_the_encoder_is_checked(run, vae, photo):
    spoilt_vae = with_overflow(vae, "encode", torch.float32)
    with pytest.raises(
        ValueError, match=r"HYPIR encode: \d+ of \d+ values from the encoder .*full precision"
    ):
        run("HYPIREncode", photo[:, :64, :64], spoilt_vae)


@pytest.mark.parametrize("options", [{}, {"tile_size": 64, "overlap": 16}])
def test_the_decoder_is_checked_in_every_tile(run, vae, photo, options):
    latent = run("HYPIREncode", photo[:, :64, :128], vae)
    spoilt_vae = with_overflow(vae, "decode", torch.float32)
    with pytest.raises(ValueError, match=r"HYPIR decode: \d+ of \d+ values from the decoder"):
        run("HYPIRDecode", latent, spoilt_vae, **options)


def test_a_latent_that_is_not_finite_is_not_decoded(run, vae):
    samples = torch.zeros(1, 4, 8, 8)
    samples[0, 0, 0, 0] = NAN
    with pytest.raises(ValueError, match="a latent must hold finite numbers, but 1 of 256"):
        run("HYPIRDecode", {"samples": samples}, vae)


def test_a_prompt_that_is_not_finite_is_named(run, sd2, prompt, latent):
    tokens = prompt[0][0].clone()
    tokens[0, 0, :2] = NAN
    with pytest.raises(ValueError, match=r"positive conditioning must hold finite .* 2 of 7168"):
        run("HYPIRRestore", sd2, [[tokens, {}]], latent)


def test_values_as_large_as_float32_holds_are_no_fault(host):
    check = host.pack("nodes.host.outputs").check_output
    tile = host.pack("hypir.tiling").Tile(0, 0, 0, 2, 2)
    large = torch.full((1, 4, 2, 2), 3e38)
    assert check(large, [tile], "step", "the network", torch.float32, "") is large
