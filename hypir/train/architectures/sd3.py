"""Stable Diffusion 3 and 3.5: a transformer of joint blocks with a position table."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from hypir.priors import SD3

from .architecture import Architecture, Condition, Told
from .text_encoders import CLIP_G, CLIP_L_PROJECTED, T5_XXL
from .tiny import tiny_network


class StableDiffusion3(Architecture):
    """See Architecture."""

    priors = (SD3,)
    network_class = "SD3Transformer2DModel"
    position_table = True
    full_config = MappingProxyType(  # SD 3.5 large
        {
            "num_layers": 38,
            "num_attention_heads": 38,
            "caption_projection_dim": 38 * 64,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        }
    )
    text_encoders = (CLIP_L_PROJECTED, CLIP_G, T5_XXL)
    text_tokens = 77 + 256
    targets = tuple(f"attn.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")) + (
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
        "proj_out",
    )
    """All linear layers of the blocks for image and text, and the last layer. The second attention
    of some SD 3.5 blocks (attn2) has no LoRA name in the host."""

    def encode(self, pipeline, captions: list[str], device: torch.device) -> Condition:
        """Condition of captions."""
        tokens, _, pooled, _ = pipeline.encode_prompt(
            prompt=captions,
            prompt_2=None,
            prompt_3=None,
            device=device,
            do_classifier_free_guidance=False,
        )
        return Condition(tokens, pooled)

    def call(self, network: nn.Module, x: Tensor, t: Tensor, text: Condition, told: Told) -> Tensor:
        """Velocity."""
        return network(x, text.tokens, text.pooled, t, return_dict=False)[0]

    def shifted_positions(
        self, network: nn.Module, draw: np.random.Generator
    ) -> AbstractContextManager:
        """Shift by any number of rows and columns."""
        side = network.pos_embed.pos_embed_max_size
        return shifted_table(network, *draw.integers(0, side, 2).tolist())

    def small_network(self, width: int) -> nn.Module:
        """Two blocks of width 128 for any `width`; the host recognises them."""
        return tiny_network(2)


@contextmanager
def shifted_table(network: nn.Module, dy: int, dx: int) -> Iterator[None]:
    """A context in which an SD3 network reads its position table shifted by (dy, dx), periodically.

    A network reads only the middle of the table on small crops. Without the shift it would never
    train the rest, which larger tiles need.
    """
    embed = network.pos_embed
    table, side = embed.pos_embed, embed.pos_embed_max_size
    square = table.reshape(1, side, side, -1)
    embed.pos_embed = square.roll((dy, dx), (1, 2)).reshape(table.shape)
    try:
        yield
    finally:
        embed.pos_embed = table
