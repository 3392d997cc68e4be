"""Each prior at its real size: its key list through detection, key map, LoRA check and planner.

The models are on the meta device: names and shapes are real, weights take no memory.
"""

from __future__ import annotations

import pytest
import torch

from hypir.priors import PRIORS
from hypir.tiling import plan_tiles
from hypir.train.architectures import ARCHITECTURES
from hypir.weights import HypirWeights, save_weights

from . import small_models


def sd21_unet_on_meta():
    """SD 2.1's UNet in diffusers, without memory for its weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            in_channels=4,
            out_channels=4,
            down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=1024,
            use_linear_projection=True,
        ).eval()


def full_size(name: str):
    """The diffusers network of a prior with its published configuration."""
    from diffusers import (
        FluxTransformer2DModel,
        SD3Transformer2DModel,
        UNet2DConditionModel,
        ZImageTransformer2DModel,
    )

    if name in ("sd2", "sd2-v"):
        return sd21_unet_on_meta()
    with torch.device("meta"):
        if name == "sdxl":
            return UNet2DConditionModel(
                sample_size=128,
                in_channels=4,
                out_channels=4,
                down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
                up_block_types=(*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
                block_out_channels=(320, 640, 1280),
                layers_per_block=2,
                attention_head_dim=(5, 10, 20),
                transformer_layers_per_block=(1, 2, 10),
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            )
        if name == "z_image":
            return ZImageTransformer2DModel()
        if name.startswith("sd3"):
            large = name == "sd3.5-large"
            return SD3Transformer2DModel(
                sample_size=128,
                patch_size=2,
                in_channels=16,
                out_channels=16,
                num_layers=38 if large else 24,
                attention_head_dim=64,
                num_attention_heads=38 if large else 24,
                joint_attention_dim=4096,
                caption_projection_dim=2432 if large else 1536,
                pooled_projection_dim=2048,
                pos_embed_max_size=192,
                qk_norm="rms_norm" if large else None,
            )
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=19,
            num_single_layers=38,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=name == "flux-dev",
            axes_dims_rope=(16, 56, 56),
        )


def host_model_on_meta(name: str, network=None):
    """The host's MODEL of a full-size network, recognised by the host from its names and shapes."""
    import comfy.model_detection
    import comfy.model_management
    import comfy.model_patcher

    network = network or full_size(name)
    if hasattr(network.config, "down_block_types"):
        state = {
            key.removeprefix("model.diffusion_model."): value
            for key, value in small_models.unet_for_host(network).items()
        }
    else:
        state = comfy.model_detection.convert_diffusers_mmdit(network.state_dict(), "")
    # The host tells v from eps prediction of SD2 by the spread of this one tensor.
    told = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if told in state:
        spread = 0.2 if name == "sd2-v" else 0.01
        state[told] = torch.linspace(-spread, spread, state[told].numel())
    config = comfy.model_detection.model_config_from_unet(state, "")
    assert config is not None, f"the host does not recognise {name}"
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(state, "", device="meta")
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


KINDS = {
    "sd2": "sd2",
    "sd2-v": "sd2-v",
    "sdxl": "sdxl",
    "sd3-medium": "sd3",
    "sd3.5-large": "sd3",
    "flux-dev": "flux",
    "flux-schnell": "flux",
    "z_image": "z_image",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_real_model_is_recognised_and_takes_a_lora_in_full(run, host, kind):
    prior = PRIORS[KINDS[kind]]
    network = full_size(kind)
    model = host_model_on_meta(kind, network)
    assert host.pack("nodes.host.model").detect_prior(model) is not None
    assert host.pack("nodes.host.model").detect_prior(model).name == prior.name
    widths = host.pack("nodes.host.model").text_widths(model)
    assert (widths.token, widths.pooled) == (prior.token_width, prior.pooled_width)

    # what training adapts unless a recipe says otherwise is among them
    trained = ARCHITECTURES[prior.name].targets
    shapes = small_models.adapted(network, (*small_models.NETWORKS[prior.name][1], *trained))
    for target in trained:
        assert small_models.adapted(network, (target,)), target
    factors = {
        module: (torch.zeros(s[0], 1, *s[2:] and (1, 1)), torch.zeros(1, *s[1:]))
        for module, s in shapes.items()
    }
    file = f"full-{kind}.safetensors"
    t = prior.timestep
    save_weights(
        HypirWeights(prior, factors, 1, t, t, prior.input_scale), host.models / "loras" / file
    )
    patched = run("HYPIRLoadLora", model, file, 1.0)
    applied = sum(len(patches) for patches in patched.patches.values())
    assert applied == len(factors) > 100
    (host.models / "loras" / file).unlink()


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_plans_tiles_it_was_trained_for(name):
    cost = PRIORS[name].tile
    for px in (512, 1000, 2048, 4096):
        plan = plan_tiles(px // 8, px // 8, cost)
        assert max(plan.rows.tile, plan.columns.tile) <= cost.largest
        if len(plan.boxes) > 1:
            assert min(plan.rows.tile, plan.columns.tile) >= cost.smallest
