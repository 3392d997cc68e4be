"""The interface of a family of diffusers' networks, with the defaults for most families."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hypir.priors import Prior

from .text_encoders import TextEncoder

Told = Mapping[str, float]
"""A prior's conditions besides text and timestep, by name."""


@dataclass(frozen=True)
class Condition:
    """A batch of the network's conditions besides the timestep."""

    tokens: Tensor | tuple[Tensor, ...]
    """(B, N, token width); or one (N, token width) per image if captions differ in N."""
    pooled: Tensor | None
    """(B, pooled width), None if the network takes none."""

    def to(self, target: torch.device | torch.dtype) -> "Condition":
        """The condition on another device or in another precision."""
        pooled = self.pooled.to(target) if self.pooled is not None else None
        return Condition(self._each(lambda tokens: tokens.to(target)), pooled)

    def repeated(self, count: int) -> "Condition":
        """The condition of one image, repeated for `count` images."""
        pooled = self.pooled.expand(count, -1) if self.pooled is not None else None
        return Condition(self.tokens.expand(count, -1, -1), pooled)

    def with_token(self, token: Tensor, unseen: bool = False) -> "Condition":
        """The condition with an extra token (B, 1, token width) after each caption.

        Args:
            unseen: leave the token out, but keep it in the autograd graph without effect.
        """
        if unseen:
            return Condition(self._each(lambda tokens: tokens + 0 * token.sum()), self.pooled)
        if isinstance(self.tokens, Tensor):
            return Condition(torch.cat([self.tokens, token], dim=1), self.pooled)
        pairs = zip(self.tokens, token, strict=True)
        return Condition(tuple(torch.cat(pair) for pair in pairs), self.pooled)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Tensor | tuple[Tensor, ...]:
        if isinstance(self.tokens, Tensor):
            return change(self.tokens)
        return tuple(change(tokens) for tokens in self.tokens)


class Architecture:
    """A family of networks: one diffusers class, called and adapted in the same way."""

    priors: tuple[Prior, ...]
    """The priors of the family; they share an autoencoder."""
    network_class: str
    """The diffusers class; it also names the blocks that FSDP does not split
    (`_no_split_modules`)."""
    part = "transformer"
    """The network's name in a pipeline, and its folder."""
    targets: tuple[str, ...]
    """Endings of the names of the modules that a LoRA adapts by default; the host's own loader must
    have a name for each."""
    quant_conv = False
    """Whether the autoencoder has a convolution between encoder and latent."""
    position_table = False
    """Whether the network has a position table that can be shifted."""

    full_config: Mapping[str, Any]
    """Of the published network, what differs from the diffusers class's defaults."""
    text_encoders: tuple[TextEncoder, ...]
    """Of the published model."""
    text_tokens: int
    """Tokens of a caption for the network, padding included."""

    def recognise(self, network: nn.Module, scheduler: Mapping) -> Prior | None:
        """The prior of a network with its scheduler's config, if it belongs to the family."""
        return self.priors[0] if type(network).__name__ == self.network_class else None

    def text_widths(self, network: nn.Module) -> tuple[int, int]:
        """Widths of the text tokens and of the pooled text vector (0 = none)."""
        return network.config.joint_attention_dim, network.config.pooled_projection_dim

    def encode(self, pipeline, captions: list[str], device: torch.device) -> Condition:
        """The condition for captions, from the text encoders of a pipeline."""
        raise NotImplementedError

    def call(self, network: nn.Module, x: Tensor, t: Tensor, text: Condition, told: Told) -> Tensor:
        """Output of the network (B, C, h, w), in the convention of hypir.one_step.

        Args:
            x: (B, C, h, w).
            t: (B,) timesteps, 0 to 999; 1000 s for flow.
            text: the condition of the captions.
            told: the prior's other conditions (SDXL's sizes, Flux's guidance).
        """
        raise NotImplementedError

    def levels(self, network: nn.Module) -> list[nn.Module]:
        """Modules whose outputs a discriminator uses, from early to late."""
        return evenly(network.transformer_blocks)

    def feature_map(self, output, cells: tuple[int, int]) -> Tensor:
        """Output of one of `levels` as a map (B, channels, h', w')."""
        return as_map(output[-1], cells)  # a joint block returns text first, then the image

    def shifted_positions(
        self, network: nn.Module, draw: np.random.Generator
    ) -> AbstractContextManager:
        """A context in which the position table is shifted at random, if the network has one."""
        raise NotImplementedError

    def small_network(self, width: int) -> nn.Module:
        """A small network with random weights, fast on a CPU.

        Args:
            width: of a UNet, a multiple of 64; the host recognises 320 only.
        """
        raise NotImplementedError

    def full_network(self) -> nn.Module:
        """The network of the published model, created by its diffusers class."""
        import diffusers

        return getattr(diffusers, self.network_class)(**self.full_config)

    def full_vae(self) -> nn.Module:
        """The autoencoder of the published model: that of all families here, by its channels."""
        from diffusers import AutoencoderKL

        return self._vae(AutoencoderKL, (128, 256, 512, 512), 2)

    def small_vae(self) -> nn.Module:
        """An AutoencoderKL with the priors' latent format and random weights, 1 M parameters."""
        from diffusers import AutoencoderKL

        return self._vae(AutoencoderKL, (32, 32, 64, 64), 1)

    def _vae(self, kind: Callable[..., nn.Module], widths: tuple, layers: int) -> nn.Module:
        prior = self.priors[0]
        return kind(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=layers,
            latent_channels=prior.latent_channels,
            scaling_factor=prior.latent_scale,
            shift_factor=prior.latent_shift or None,
            use_quant_conv=self.quant_conv,
            use_post_quant_conv=self.quant_conv,
        )


def evenly(blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """Three blocks of a transformer, including the last."""
    return [blocks[i] for i in sorted({math.ceil(len(blocks) * k / 3) - 1 for k in (1, 2, 3)})]


def as_map(tokens: Tensor, cells: tuple[int, int]) -> Tensor:
    """The first tokens of (B, N, C), one per 2x2 cells, as a map (B, C, h/2, w/2)."""
    h, w = cells[0] // 2, cells[1] // 2
    return tokens[:, : h * w].movedim(1, -1).unflatten(-1, (h, w))
