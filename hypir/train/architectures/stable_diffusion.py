"""Stable Diffusion 2.1: a UNet that predicts noise or velocity."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from hypir.predictions import EPS, V
from hypir.priors import SD2, SD2_V, Prior
from hypir.public_file import TARGETS

from .architecture import Architecture, Condition, Told
from .text_encoders import CLIP_H

_PREDICTIONS = {"epsilon": EPS, "v_prediction": V}


class StableDiffusion(Architecture):
    """See Architecture."""

    priors = (SD2, SD2_V)
    network_class = "UNet2DConditionModel"
    part = "unet"
    targets = TARGETS
    quant_conv = True
    full_config = MappingProxyType(
        {
            "sample_size": 64,
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": (5, 10, 20, 20),  # in diffusers these are the numbers of heads
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
        }
    )
    text_encoders = (CLIP_H,)
    text_tokens = 77
    addition: str | None = None
    """diffusers' name of what the network adds to its timestep."""

    def recognise(self, network: nn.Module, scheduler: Mapping) -> Prior | None:
        """Decided by the addition to the timestep, the token width and the prediction."""
        if super().recognise(network, scheduler) is None:
            return None
        config = network.config
        prediction = _PREDICTIONS.get(scheduler.get("prediction_type", "epsilon"))
        found = (
            prior
            for prior in self.priors
            if config.addition_embed_type == self.addition
            and config.cross_attention_dim == prior.token_width
            and prior.prediction is prediction
        )
        return next(found, None)

    def text_widths(self, network: nn.Module) -> tuple[int, int]:
        """Widths of a text token and of the pooled text vector (none here)."""
        return network.config.cross_attention_dim, 0

    def encode(self, pipeline, captions: list[str], device: torch.device) -> Condition:
        """Condition of captions."""
        tokens, _ = pipeline.encode_prompt(captions, device, 1, False)
        return Condition(tokens, None)

    def call(self, network: nn.Module, x: Tensor, t: Tensor, text: Condition, told: Told) -> Tensor:
        """Output of the UNet."""
        return network(x, t, encoder_hidden_states=text.tokens, return_dict=False)[0]

    def levels(self, network: nn.Module) -> list[nn.Module]:
        """The down and middle blocks."""
        return [*network.down_blocks, network.mid_block]

    def feature_map(self, output, cells: tuple[int, int]) -> Tensor:
        """A block's output map; a down block returns it first, then those for the up path."""
        return output[0] if isinstance(output, tuple) else output

    def small_network(self, width: int) -> nn.Module:
        """Two blocks down and up, one with attention."""
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(
            sample_size=64,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(width, width),
            layers_per_block=1,
            attention_head_dim=width // 64,  # in diffusers this is the number of heads
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
