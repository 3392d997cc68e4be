"""Base models: diffusers' folders, the tiny stack's files, and words for what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hypir.encoder import fingerprint
from hypir.priors import PRIORS
from hypir.train.adversarial_stage import AdversarialStage
from hypir.train.architectures.flux import pack, unpack
from hypir.train.architectures.sd3 import shifted_table
from hypir.train.architectures.tiny import tiny_vae
from hypir.train.feed import Feed
from hypir.train.generator import Encoder, Generator, decode
from hypir.train.loop import run_stage
from hypir.train.models import load_base, load_vae_part, save_autoencoder, small_base

CPU = torch.device("cpu")


def test_a_folder_of_diffusers_is_trained_with_its_captions(make_recipe, accelerator, sd2_folder):
    recipe = make_recipe("sd2", steps=1, base=str(sd2_folder))
    base = load_base(recipe)
    empty, other = base.text.encode([""], CPU), base.text.encode(["a cat"], CPU)
    assert empty.tokens.shape == other.tokens.shape == (1, 77, 1024)
    assert not torch.equal(empty.tokens, other.tokens)
    run_stage(AdversarialStage(recipe, accelerator, base), recipe, accelerator)


def test_z_image_is_trained_with_captions_of_different_lengths(
    make_recipe, accelerator, z_image_folder
):
    recipe = make_recipe("z_image", steps=1, base=str(z_image_folder))
    base = load_base(recipe)
    captions = ["", "a cat"]
    condition = base.text.encode(captions, CPU)
    assert captions == ["", "a cat"]
    # the bytes of the chat around a caption, its three marks counted as one each
    around = len("user\n") + len("\n") + len("assistant\n") + 3
    assert [len(own) for own in condition.tokens] == [around, around + len("a cat")]
    empty = base.text.encode(["", ""], CPU)
    assert empty.tokens.shape == (2, around, 64)
    assert torch.allclose(empty.tokens[0], condition.tokens[0], atol=1e-5)
    stage = AdversarialStage(recipe, accelerator, base)
    batch = replace(Feed(recipe, accelerator.device).next(), captions=captions)
    values = stage.step(iter([batch]), 1, 0)
    assert values["gradient"] > 0
    run_stage(AdversarialStage(recipe, accelerator), recipe, accelerator)


def test_the_empty_caption_follows_the_network_to_its_device(make_recipe, sd2_folder):
    text = load_base(make_recipe("sd2", base=str(sd2_folder))).text
    assert text.encode([""], CPU).tokens.device == CPU
    assert text.encode(["", ""], torch.device("meta")).tokens.is_meta


def test_autoencoders_stay_out_of_half_precision():
    base = small_base("sd2")
    for half in (base.vae.encoder, base.vae.decoder):
        half.conv_in.weight.mul_(1e6)  # above 65504 behind it; the next norm makes up for it
    encoder = Encoder(base.vae, base.prior)
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        z = encoder(pixels)
        shown = decode(base.vae, base.prior, z)
        with torch.autocast("cpu", torch.float16):
            assert not base.vae.decoder.conv_in(z).isfinite().all()
            assert torch.equal(encoder(pixels), z)
            assert torch.equal(decode(base.vae, base.prior, z), shown)
        with torch.autocast("cpu", torch.bfloat16):
            # float weights are computed with as they are; in bf16 only what is trained
            assert torch.equal(decode(base.vae, base.prior, z), shown)
            encoder.learn()
            assert encoder(pixels).dtype == torch.bfloat16


def test_a_base_model_of_another_prior_is_refused(make_recipe, sd2_folder):
    with pytest.raises(ValueError, match=r"is Stable Diffusion 2.1-base.*the recipe wants"):
        load_base(make_recipe("sdxl", base=str(sd2_folder)))


def test_a_missing_base_model_is_named_with_what_to_download(make_recipe, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be loaded.*download Stable Diffusion 3"):
        load_base(make_recipe("sd3", base=str(tmp_path / "none")))


def test_the_tiny_autoencoder_survives_its_file(tmp_path):
    torch.manual_seed(0)
    first, second = tiny_vae(), tiny_vae()
    path = tmp_path / "vae.safetensors"
    save_autoencoder(first.state_dict(), path, torch.float32, PRIORS["sd3"])
    load_vae_part(second, path)
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())


def test_a_file_of_another_autoencoder_is_refused(tmp_path):
    path = tmp_path / "vae.safetensors"
    save_autoencoder(tiny_vae().state_dict(), path, torch.float32, PRIORS["sd3"])
    with pytest.raises(ValueError, match="does not fit the autoencoder"):
        load_vae_part(small_base("sd2").vae, path)


@pytest.mark.parametrize("prior", ["sd2", "sd3"])
def test_encoder_and_decoder_are_those_of_diffusers_in_scaled_latents(prior):
    base = small_base(prior)
    pixels = torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        latent = base.vae.encode(pixels).latent_dist
        scale, shift = base.vae.config.scaling_factor, base.vae.config.shift_factor or 0.0
        z = Encoder(base.vae, base.prior)(pixels)
        assert torch.allclose(z, (latent.mean - shift) * scale, atol=1e-6)
        assert torch.allclose(
            decode(base.vae, base.prior, z), base.vae.decode(latent.mean)[0], atol=1e-5
        )
        seeds = list(range(200))
        many = Encoder(base.vae, base.prior)(pixels.expand(200, -1, -1, -1), seeds)
        spread = (many / scale + shift).std(dim=0)
        # the standard error of a deviation from 200 draws is 5 %
        assert float((spread / latent.std[0] - 1).abs().mean()) < 0.1


def test_an_encoder_keeps_the_fingerprint_of_its_decoder():
    base = small_base("sd2")
    encoder = Encoder(base.vae, base.prior)
    for p in encoder.parameters():
        p.data.mul_(2)
    state = encoder.state_for(base.vae)
    assert fingerprint(state) == fingerprint(base.vae.state_dict())
    assert torch.equal(state["encoder.conv_in.weight"], 2 * base.vae.encoder.conv_in.weight)


def test_flux_tokens_are_diffusers_own():
    from diffusers import FluxPipeline

    latent = torch.randn(2, 16, 6, 10)
    expected = FluxPipeline._pack_latents(latent, 2, 16, 6, 10)
    assert torch.equal(pack(latent), expected)
    assert torch.equal(unpack(expected, 6, 10), latent)


@pytest.mark.parametrize("prior", PRIORS)
def test_one_step_is_the_formula_of_its_prior(prior):
    base = small_base(prior)
    t = base.prior.timestep
    z = torch.randn(1, base.prior.latent_channels, 4, 4)
    condition = base.text.encode([""], CPU)
    outputs = []
    base.network.register_forward_hook(lambda *a: outputs.append(a[2][0]))
    generator = Generator(base.prior, base.network, t, t, base.prior.input_scale)
    with torch.no_grad():
        x0 = generator(z, condition.tokens, condition.pooled)
    output = outputs[0]
    if prior == "flux":
        output = unpack(output, 4, 4)
    if prior == "z_image":  # it points from the noise to the picture
        output = -torch.stack(output)[:, :, 0]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    bar = float((1 - betas).cumprod(0)[200])
    s = 0.364
    expected = {
        "eps": (z - (1 - bar) ** 0.5 * output) / bar**0.5,
        "v": bar**0.5 * z - (1 - bar) ** 0.5 * output,
        "flow": ((1 - s) ** 2 + s**2) ** 0.5 * z - s * output,
    }[base.prior.prediction.name]
    assert torch.allclose(x0, expected, atol=1e-5)


def test_shifted_positions_move_the_middle_of_the_table_and_put_it_back():
    network = small_base("sd3").network
    embed = network.pos_embed
    before = embed.cropped_pos_embed(8, 8).reshape(4, 4, -1).clone()
    with shifted_table(network, 0, 1):
        moved = embed.cropped_pos_embed(8, 8).reshape(4, 4, -1)
        assert torch.equal(moved[:, 1:], before[:, :-1])
    assert torch.equal(embed.cropped_pos_embed(8, 8).reshape(4, 4, -1), before)
