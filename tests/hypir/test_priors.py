"""The base models: defaults that belong together, against diffusers' configurations."""

from dataclasses import FrozenInstanceError
from math import sqrt

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from torch.utils.flop_counter import FlopCounterMode

from hypir.predictions import FLOW, NoiseLevel, flow_level
from hypir.priors import FLUX, PRIORS, SD2, SD2_V, SD3, SDXL, Z_IMAGE
from hypir.tiling import LADDER, VAE_COST

every_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
ALPHA_BAR_200 = 0.7537  # alphas_cumprod[200] of the SD scheduler


def test_every_prior_is_found_by_its_name():
    assert list(PRIORS) == ["sd2", "sd2-v", "sdxl", "sd3", "flux", "z_image"]
    assert all(name == prior.name for name, prior in PRIORS.items())
    with pytest.raises(FrozenInstanceError):
        SD2.name = "other"
    with pytest.raises(TypeError):
        SDXL.conditions["width"] = 512


@every_prior
def test_the_default_levels_are_equal_in_signal_to_noise(prior):
    expected = ALPHA_BAR_200 / (1 - ALPHA_BAR_200)
    assert prior.level(prior.timestep).snr == pytest.approx(expected, rel=0.01)


@every_prior
def test_the_default_input_scale_is_one_or_the_flow_states_deviation(prior):
    k = 1 / (sqrt(ALPHA_BAR_200) + sqrt(1 - ALPHA_BAR_200))
    assert prior.input_scale == pytest.approx(k if prior.prediction is FLOW else 1, rel=2e-3)


def test_the_step_takes_both_levels_and_the_scale():
    step = SD3.step(364, 250, 0.7)
    assert (step.prediction, step.input_scale) == (FLOW, 0.7)
    assert (step.model_level, step.coefficient_level) == (flow_level(364), flow_level(250))
    assert SD2_V.step(0, 999, 1.0).model_level == SD2_V.level(0)
    assert isinstance(SDXL.step(200, 200, 1.0).model_level, NoiseLevel)


@every_prior
def test_a_step_outside_the_schedule_is_refused_by_the_inputs_name(prior):
    least = 1 if prior.prediction is FLOW else 0
    for t in (least - 1, 1000):
        sentence = f"^timestep must be between {least} and 999 for .*, got {t}; use -1"
        with pytest.raises(ValueError, match=sentence):
            prior.step(t, 200, 1.0)
        with pytest.raises(ValueError, match=f"^coefficient_timestep must .*, got {t}; use -1"):
            prior.step(200, t, 1.0)
    assert (prior.timesteps[0], prior.timesteps[-1]) == (least, 999)


@pytest.mark.parametrize("cost", [*(p.tile for p in PRIORS.values()), VAE_COST])
def test_tile_sizes_are_whole_steps(cost):
    assert 2 * cost.overlap <= cost.smallest <= cost.largest
    assert all(side % cost.align == 0 for side in (cost.smallest, cost.largest, *LADDER))


def counted(model: torch.nn.Module, *inputs: torch.Tensor, **more: torch.Tensor) -> float:
    """TFLOP of one call, as torch counts them (a multiplication and an addition are two)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs, **more)
    return counter.get_total_flops() / 1e12


def on_meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


@pytest.mark.parametrize("cells", [64, 96, 128])
def test_the_sd2_cost_is_that_of_the_full_network(cells):
    with torch.device("meta"):
        network = UNet2DConditionModel(
            cross_attention_dim=1024,
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
        )
    got = counted(network, on_meta(1, 4, cells, cells), on_meta(1), on_meta(1, 77, 1024))
    assert SD2.tile.of(cells, cells) == pytest.approx(got, rel=0.03)
    assert SD2_V.tile.of(cells, cells) == SD2.tile.of(cells, cells)


def test_the_sdxl_cost_is_that_of_the_full_network():
    with torch.device("meta"):
        network = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    more = {"text_embeds": on_meta(1, 1280), "time_ids": on_meta(1, 6)}
    inputs = (on_meta(1, 4, 64, 64), on_meta(1), on_meta(1, 77, 2048))
    got = counted(network, *inputs, added_cond_kwargs=more)
    assert SDXL.tile.of(64, 64) == pytest.approx(got, rel=0.03)


def test_the_sd3_cost_is_that_of_the_large_network():
    with torch.device("meta"):
        network = SD3Transformer2DModel(
            num_layers=38,
            num_attention_heads=38,
            attention_head_dim=64,
            caption_projection_dim=2432,
            pos_embed_max_size=192,
        )
    text = {"encoder_hidden_states": on_meta(1, 154, 4096), "pooled_projections": on_meta(1, 2048)}
    got = counted(network, on_meta(1, 16, 64, 64), timestep=on_meta(1), **text)
    assert SD3.tile.of(64, 64) == pytest.approx(got, rel=0.03)


def test_the_flux_cost_is_that_of_the_full_network():
    with torch.device("meta"):
        network = FluxTransformer2DModel(guidance_embeds=True)
    tokens = 32 * 32  # a token takes 2 x 2 cells
    got = counted(
        network,
        on_meta(1, tokens, 64),
        encoder_hidden_states=on_meta(1, 512, 4096),
        pooled_projections=on_meta(1, 768),
        timestep=on_meta(1),
        guidance=on_meta(1),
        img_ids=on_meta(tokens, 3),
        txt_ids=on_meta(512, 3),
    )
    assert FLUX.tile.of(64, 64) == pytest.approx(got, rel=0.03)


@pytest.mark.parametrize("cells", [64, 96, 128])
def test_the_z_image_cost_is_that_of_the_full_network(cells):
    with torch.device("meta"):
        network = ZImageTransformer2DModel()
    # Its table of rotary positions is made on the CPU whatever the device.
    rope = network.rope_embedder
    rope.freqs_cis = [
        on_meta(n, d // 2) for n, d in zip(rope.axes_lens, rope.axes_dims, strict=True)
    ]
    inputs = ([on_meta(16, 1, cells, cells)], on_meta(1), [on_meta(96, Z_IMAGE.token_width)])
    assert Z_IMAGE.tile.of(cells, cells) == pytest.approx(counted(network, *inputs), rel=0.03)


@pytest.mark.parametrize("cells", [64, 128])
def test_the_vae_cost_is_that_of_the_full_autoencoder(cells):
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[128, 256, 512, 512],
            layers_per_block=2,
        )
    got = counted(vae, on_meta(1, 3, 8 * cells, 8 * cells))
    assert VAE_COST.of(cells, cells) == pytest.approx(got, rel=0.03)


def test_latent_formats_are_those_of_the_autoencoders():
    # scaling_factor, shift_factor, latent_channels of each model's vae/config.json
    expected = {
        "sd2": (0.18215, 0.0, 4),
        "sd2-v": (0.18215, 0.0, 4),
        "sdxl": (0.13025, 0.0, 4),
        "sd3": (1.5305, 0.0609, 16),
        "flux": (0.3611, 0.1159, 16),
        "z_image": (0.3611, 0.1159, 16),
    }
    for name, prior in PRIORS.items():
        got = (prior.latent_scale, prior.latent_shift, prior.latent_channels)
        assert got == expected[name]


def test_text_widths_are_those_of_the_text_encoders():
    # OpenCLIP-H 1024; CLIP-L 768 + bigG 1280; T5-XXL 4096 with both pooled, or CLIP-L's; Qwen3-4B
    widths = {p.name: (p.token_width, p.pooled_width) for p in PRIORS.values()}
    assert widths["sd2"] == widths["sd2-v"] == (1024, 0)
    assert widths["sdxl"] == (768 + 1280, 1280)
    assert widths["sd3"] == (4096, 768 + 1280)
    assert widths["flux"] == (4096, 768)
    assert widths["z_image"] == (2560, 0)
