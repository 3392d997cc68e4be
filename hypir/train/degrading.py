"""Degraded pictures: which degradation and scale each draws, and the pair that it becomes."""

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
    """How pictures are spoilt."""

    degradations: Annotated[tuple[Literal[tuple(KINDS)], ...], Filled("degradations")] = (
        "training",
    )
    """Names of degradations, one drawn per picture: training (as published with Real-ESRGAN), none
    (reduced only), or presets of HYPIR Degrade, of which some are milder."""
    scales: Annotated[
        tuple[Annotated[int, Bounds(1, MAX_SCALE, "times")], ...], Filled("scales")
    ] = (4,)
    """The degraded picture is this many times smaller before it is enlarged again; one drawn per
    picture, of which some may be named twice."""
    sharpen: bool = False
    """Sharpen the clean picture (USM) before it is the target, as published."""


@dataclass
class Pair:
    """A picture as it waits, in bytes."""

    number: int
    clean: Tensor
    degraded: Tensor
    caption: str


def degrade_and_enlarge(clean: Tensor, scale: int, seeds: Sequence[int], recipe=None) -> Tensor:
    """(B, 3, H, W) in [0, 1] degraded by training's recipe and enlarged again (bicubic)."""
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
    """The pair with its degraded side made, small, in bytes."""
    own = derive_seed(seed, "degradation", pair.number)
    draw = np.random.default_rng(derive_seed(seed, "kind of degradation", pair.number))
    kind = asked.degradations[draw.integers(len(asked.degradations))]
    scale = asked.scales[draw.integers(len(asked.scales))]
    small = degrade_pixels(pair.clean[None].float() / 255, KINDS[kind], scale, [own])[0]
    return Pair(pair.number, pair.clean, (small * 255).round().to(torch.uint8), pair.caption)
