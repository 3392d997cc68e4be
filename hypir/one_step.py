"""The one step: a low-quality latent is taken as x_t and turned into the clean x0.

Source: HYPIR (arXiv 2507.20590). What a network's output means is in predictions.py.

Legend:
    z           scaled latent of the low-quality image (B, C, h, w)
    x_t         what the network sees, x_t = k z with the input scale k
    m, c        the model level (what the network is told) and the coefficient level (what turns
                its output into x0); equal unless asked otherwise
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isclose

import torch
from torch import Tensor

from .predictions import NoiseLevel, Prediction
from .tiling import Tile, TilePlan, run_tiles


@dataclass(frozen=True)
class OneStep:
    """Everything that fixes the one step, apart from the network."""

    prediction: Prediction
    """What the network predicts."""
    model_level: NoiseLevel
    """m, what the network is told."""
    coefficient_level: NoiseLevel
    """c, what turns its output into x0."""
    input_scale: float = 1.0
    """k of x_t = k z."""


def restore_tile(z: Tensor, predict: Callable[[Tensor], Tensor], step: OneStep) -> Tensor:
    """One step on latents that fit the network whole.

    Args:
        z: scaled latents (B, C, h, w).
        predict: x_t -> x0 at the model level (one call of the network and the prediction's x0).
        step: the levels and the input scale.

    Returns:
        Clean scaled latents at the coefficient level, same shape.
    """
    x_t = z if step.input_scale == 1.0 else step.input_scale * z
    x0 = predict(x_t)
    if _same_level(step.model_level, step.coefficient_level):
        return x0
    output = step.prediction.output(x_t, x0, step.model_level)
    return step.prediction.x0(x_t, output, step.coefficient_level)


def restore_latent(
    z: Tensor,
    predict: Callable[[Tensor, list[Tile]], Tensor],
    step: OneStep,
    plan: TilePlan,
    tile_batch: int = 1,
    mix_items: bool = True,
    on_batch: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """One step on latents of any size, tile by tile, blended.

    Args:
        z: scaled latents (B, C, h, w).
        predict: (x_t of some tiles (n, C, th, tw), those tiles) -> x0 at the model level.
        step: the levels and the input scale.
        plan: tiles over h x w.
        tile_batch: how many tiles one call of `predict` takes.
        mix_items: whether one call may hold tiles of several items of the batch.
        on_batch: called with (tiles done, tiles in all, result so far) after every call.

    Returns:
        Clean scaled latents, float32, same shape; exactly restore_tile's when one tile covers all.
    """
    out = torch.zeros(z.shape, dtype=torch.float32, device=z.device)

    def process(tiles: list[Tile]) -> Tensor:
        crops = torch.cat([tile.crop(z) for tile in tiles])
        return restore_tile(crops, lambda x_t: predict(x_t, tiles), step)

    run_tiles(plan, process, out, batch=tile_batch, mix_items=mix_items, on_batch=on_batch)
    return out


def _same_level(a: NoiseLevel, b: NoiseLevel) -> bool:
    return isclose(a.sigma, b.sigma, rel_tol=1e-9) and isclose(a.alpha, b.alpha, rel_tol=1e-9)
