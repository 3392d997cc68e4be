"""The restoration step: it treats a low-quality latent as x_t and computes the clean x0.

Source: HYPIR (arXiv 2507.20590). predictions.py defines what the network's output means.

Legend:
    z           scaled latent of the low-quality image (B, C, h, w)
    x_t         the network's input, x_t = k z with the input scale k
    m, c        the model level (given to the network) and the coefficient level (used to compute
                x0 from its output); equal unless requested otherwise
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
    """All parameters of the step except the network."""

    prediction: Prediction
    """What the network predicts."""
    model_level: NoiseLevel
    """m, the level given to the network."""
    coefficient_level: NoiseLevel
    """c, the level used to compute x0."""
    input_scale: float = 1.0
    """k of x_t = k z."""


def restore_tile(z: Tensor, predict: Callable[[Tensor], Tensor], step: OneStep) -> Tensor:
    """One step on latents that the network processes as a whole.

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
    """One step on latents of any size, in blended tiles.

    Args:
        z: scaled latents (B, C, h, w).
        predict: (x_t of n tiles (n, C, th, tw), the tiles) -> x0 at the model level.
        step: the levels and the input scale.
        plan: the tiles that cover h x w.
        tile_batch: number of tiles per call of `predict`.
        mix_items: whether one call may contain tiles of several items of the batch.
        on_batch: called with (tiles done, total tiles, result so far) after every call.

    Returns:
        Clean scaled latents, float32, same shape; identical to restore_tile's if one tile covers
        everything.
    """
    out = torch.zeros(z.shape, dtype=torch.float32, device=z.device)

    def process(tiles: list[Tile]) -> Tensor:
        crops = torch.cat([tile.crop(z) for tile in tiles])
        return restore_tile(crops, lambda x_t: predict(x_t, tiles), step)

    run_tiles(plan, process, out, batch=tile_batch, mix_items=mix_items, on_batch=on_batch)
    return out


def _same_level(a: NoiseLevel, b: NoiseLevel) -> bool:
    return isclose(a.sigma, b.sigma, rel_tol=1e-9) and isclose(a.alpha, b.alpha, rel_tol=1e-9)
