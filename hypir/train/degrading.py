"""Degraded images: the draw of degradation and scale, and the resulting pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hypir.degradation import MAX_SCALE, degrade_pixels
from hypir.degradation_kernels import blur, gaussian_kernel
from hypir.degradation_presets import PRESETS, no_degradation, training

from .bounds import Bounds, Filled, settings
from .data import derive_seed

KINDS = {kind.name: kind for kind in (training(), no_degradation())} | PRESETS
"""Degradations by name."""


@settings
class Degradation:
    """Degradation of the training images."""

    degradations: Annotated[tuple[Literal[tuple(KINDS)], ...], Filled("degradations")] = (
        "training",
    )
    """Degradations, one drawn per image: training (as published with Real-ESRGAN), none (only
    reduced), or presets of HYPIR Degrade, some of which are milder."""
    scales: Annotated[
        tuple[Annotated[int, Bounds(1, MAX_SCALE, "times")], ...], Filled("scales")
    ] = (4,)
    """Reduction factor of the degraded image before it is enlarged again, one drawn per image. A
    repeated value is more likely."""
    sharpen: bool = False
    """Sharpen the target (unsharp mask), as published."""


@dataclass
class Pair:
    """A pair in the pool, in bytes."""

    number: int
    clean: Tensor
    degraded: Tensor
    caption: str

    def pin_memory(self) -> "Pair":
        """The pair in memory from which a GPU copies by itself; called by torch's loader."""
        clean = self.clean.pin_memory()
        same = self.degraded is self.clean
        degraded = clean if same else self.degraded.pin_memory()
        return Pair(self.number, clean, degraded, self.caption)


def degrade_and_enlarge(clean: Tensor, scale: int, seeds: Sequence[int], recipe=None) -> Tensor:
    """(B, 3, H, W) in [0, 1], degraded by the training recipe and enlarged again (bicubic)."""
    return enlarge(degrade_pixels(clean, recipe or training(), scale, seeds), clean.shape[-2:])


def enlarge(small: Tensor, size: torch.Size) -> Tensor:
    """(B, 3, h, w) in [0, 1] at the size (H, W), bicubic."""
    return F.interpolate(small, size, mode="bicubic", align_corners=False).clamp(0, 1)


def sharpen(clean: Tensor) -> Tensor:
    """Unsharp mask on (B, 3, H, W) in [0, 1], with the parameters published with Real-ESRGAN.

    residual = picture - G(picture), G Gaussian of 51 px (sigma 8); where |residual| > 10/255,
    softened by G, the picture becomes picture + 0.5 residual.
    """
    kernel = gaussian_kernel(51, (8.0, 8.0), 0.0)
    residual = clean - blur(clean, kernel)
    mask = blur((residual.abs() > 10 / 255).to(clean), kernel)
    return clean + mask * ((clean + 0.5 * residual).clamp(0, 1) - clean)


def degraded_pair(pair: Pair, asked: Degradation, seed: int) -> Pair:
    """The pair with its degraded image, at reduced size, in bytes."""
    own = derive_seed(seed, "degradation", pair.number)
    draw = np.random.default_rng(derive_seed(seed, "kind of degradation", pair.number))
    kind = asked.degradations[draw.integers(len(asked.degradations))]
    scale = asked.scales[draw.integers(len(asked.scales))]
    small = degrade_pixels(pair.clean[None].float() / 255, KINDS[kind], scale, [own])[0]
    return Pair(pair.number, pair.clean, (small * 255).round().to(torch.uint8), pair.caption)
