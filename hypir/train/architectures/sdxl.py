"""Stable Diffusion XL: a UNet with sizes and a pooled text vector as further conditions."""

from types import MappingProxyType

import torch
from torch import Tensor, nn

from hypir.priors import SDXL

from .architecture import Condition, Told
from .stable_diffusion import StableDiffusion
from .text_encoders import CLIP_G, CLIP_L


class StableDiffusionXL(StableDiffusion):
    """See Architecture."""

    priors = (SDXL,)
    addition = "text_time"
    full_config = MappingProxyType(
        {
            "sample_size": 128,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (320, 640, 1280),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
    )
    text_encoders = (CLIP_L, CLIP_G)

    def text_widths(self, network: nn.Module) -> tuple[int, int]:
        """Widths of a text token and of the pooled vector, which is combined with six sizes."""
        config = network.config
        sizes = 6 * config.addition_time_embed_dim
        return config.cross_attention_dim, config.projection_class_embeddings_input_dim - sizes

    def encode(self, pipeline, captions: list[str], device: torch.device) -> Condition:
        """Condition of captions."""
        tokens, _, pooled, _ = pipeline.encode_prompt(
            prompt=captions, prompt_2=None, device=device, do_classifier_free_guidance=False
        )
        return Condition(tokens, pooled)

    def call(self, network: nn.Module, x: Tensor, t: Tensor, text: Condition, told: Told) -> Tensor:
        """Output of the UNet."""
        height, width = told["height"], told["width"]
        # Original size, top left corner of the crop, target size; height first.
        # Filled on the device: a copy from the host would wait for it.
        sizes = [x.new_full((1,), side) for side in (height, width, 0, 0, height, width)]
        sizes = torch.cat(sizes).expand(len(x), -1)
        added = {"text_embeds": text.pooled, "time_ids": sizes}
        return network(
            x,
            t,
            encoder_hidden_states=text.tokens,
            return_dict=False,
            added_cond_kwargs=added,
        )[0]

    def small_network(self, width: int) -> nn.Module:
        """Three blocks down and up, with the transformer depths of the full network."""
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(width, width, width),
            layers_per_block=2,
            attention_head_dim=width // 64,
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
