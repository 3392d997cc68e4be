"""Z-Image in the host: time, sign and one more token of text, as diffusers' own pipeline has them.

The host tells the network 1 - s and turns the sign of its output; diffusers leaves both to its
pipeline. Both fill a text up to multiples of 32 tokens, behind which the picture's positions begin.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hypir.priors import Z_IMAGE
from hypir.texture import embed_richness
from hypir.weights import HypirWeights, save_weights

from . import small_models
from .test_conditioning import random_mlp

TEXT = 64
LEVEL = 0.364
SCALE = ((1 - LEVEL) ** 2 + LEVEL**2) ** 0.5
RANK = 2


def pipeline_step(network, z: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """One step of diffusers' pipeline from noise level 0.364 to none, on (B, 16, h, w)."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline

    vae = AutoencoderKL(  # for its factor of 8 only
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
    )
    pipeline = ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=1.0), vae, None, None, network)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        height=8 * z.shape[2],
        width=8 * z.shape[3],
        num_inference_steps=1,
        sigmas=[LEVEL],
        guidance_scale=0.0,
        latents=SCALE * z,
        prompt_embeds=list(text),
        output_type="latent",
    ).images


@pytest.fixture(scope="module")
def network():
    return small_models.z_image_transformer()


@pytest.fixture(scope="module")
def textured(host, network):
    """A LoRA of the class with a richness MLP, on the host's MODEL; and the two by themselves."""
    factors = small_models.lora_for(network, small_models.Z_IMAGE_TARGETS, RANK)
    mlp, t = random_mlp(TEXT), Z_IMAGE.timestep
    weights = HypirWeights(Z_IMAGE, factors, RANK, t, t, Z_IMAGE.input_scale, texture=mlp)
    save_weights(weights, host.models / "loras" / "textured-z_image.safetensors")
    model = small_models.host_model(dict(network.state_dict()))
    load = host.nodes["HYPIRLoadLora"].execute
    with torch.inference_mode():
        patched = load(model, "textured-z_image.safetensors", 1.0).result[0]
    return patched, small_models.merge(small_models.z_image_transformer(), factors), mlp


def restored(run, model, positive, z: torch.Tensor) -> torch.Tensor:
    latent = {"samples": z / Z_IMAGE.latent_scale + Z_IMAGE.latent_shift}
    out = run("HYPIRRestore", model, positive, latent)["samples"]
    return (out - Z_IMAGE.latent_shift) * Z_IMAGE.latent_scale


def random(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("words", [1, 7, 32, 45])
def test_the_step_is_one_step_of_diffusers_own_pipeline(run, network, words):
    model = small_models.host_model(dict(network.state_dict()))
    z, text = random(1, 16, 10, 24), random(1, words, TEXT, seed=6)
    want = pipeline_step(network, z, text)
    assert (want - SCALE * z).abs().max() > 0.1, "the network has something to say"
    assert_close(restored(run, model, [[text, {}]], z), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("words", [31, 32, 45])
def test_the_richness_is_one_more_token_of_the_text(run, textured, words):
    patched, merged, mlp = textured

    class Reader:
        """What the node asks of the host's CLIP."""

        def tokenize(self, text):
            return text

        def encode_from_tokens_scheduled(self, text):
            mask = torch.ones(1, words, dtype=torch.long)
            return [[random(1, words, TEXT, seed=6), {"attention_mask": mask}]]

    z = random(2, 16, 16, 16)
    texture = {"texture": "set", "richness": 0.4}
    positive = run("HYPIRConditioning", patched, Reader(), "a cat", texture)
    token = embed_richness(torch.tensor([0.4]), mlp)
    text = torch.cat([random(1, words, TEXT, seed=6), token], dim=1).expand(2, -1, -1)
    want = pipeline_step(merged, z, text)
    assert_close(restored(run, patched, positive, z), want, atol=1e-4, rtol=1e-4)
    without = run("HYPIRConditioning", patched, Reader(), "a cat", {"texture": "off"})
    assert (restored(run, patched, without, z) - want).abs().max() > 1e-3


def test_without_a_clip_the_zero_token_and_the_richness_are_the_text(run, textured):
    patched, merged, mlp = textured
    z = random(1, 16, 16, 16)
    token = embed_richness(torch.tensor([0.7]), mlp)
    text = torch.cat([torch.zeros(1, 1, TEXT), token], dim=1)
    positive = run("HYPIRConditioning", patched, texture={"texture": "set", "richness": 0.7})
    want = pipeline_step(merged, z, text)
    assert_close(restored(run, patched, positive, z), want, atol=1e-4, rtol=1e-4)


def test_a_sibling_of_the_class_is_no_z_image(host, network):
    """Lumina 2 is the same class in the host, with another text and another width."""
    import comfy.supported_models

    model = small_models.host_model(dict(network.state_dict()))
    config = model.model.model_config
    model.model.model_config = comfy.supported_models.Lumina2(config.unet_config)
    with pytest.raises(ValueError, match=r"Z-Image.*but this model is Lumina2 \(Lumina2\)"):
        host.pack("nodes.host.model").detect_prior(model)
