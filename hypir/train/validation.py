"""Held-out pictures, degraded always alike, and how near a result comes to them.

PSNR, SSIM and LPIPS are torchmetrics'; the texture error is the difference of hypir.texture's
richness. The nodes' colour transfer is applied before measuring, as users have it.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from hypir.color import transfer_color
from hypir.texture import measure_richness

from .data import derive_seed
from .degrading import degrade_and_enlarge
from .feed import Batch
from .pictures import list_pictures, read_levels
from .recipe import Recipe
from .texts import read_caption

log = logging.getLogger(__name__)


def held_out(recipe: Recipe, device: torch.device) -> list[Batch]:
    """Batches of one picture each, from the middle of the pictures of the recipe's folder.

    Raises:
        ValueError: if the folder holds no picture of the crop's size.
    """
    batches, asked, scales = [], recipe.log, recipe.degradation.scales
    for file in list_pictures(Path(asked.validate)):
        if len(batches) == asked.validate_count:
            break
        try:
            picture, caption = read_levels(file), read_caption(file)
        except ValueError as error:
            log.warning("%s; left out of validation", error)
            continue
        height, width = picture.shape[:2]
        side = recipe.data.crop
        if min(height, width) < side:
            continue
        y, x = (height - side) // 2, (width - side) // 2
        crop = np.ascontiguousarray(picture[y : y + side, x : x + side])
        clean = torch.from_numpy(crop).to(device).movedim(-1, 0)[None]  # HWC -> BCHW
        number = len(batches)
        seeds = [derive_seed(0, "validation", number)]
        degraded = degrade_and_enlarge(clean, scales[number % len(scales)], seeds)
        batches.append(
            Batch(
                target=clean * 2 - 1,
                degraded=degraded * 2 - 1,
                captions=[caption],
                numbers=[number],
                richness=measure_richness(clean.movedim(1, -1)),
            )
        )
    if not batches:
        raise ValueError(
            f"{asked.validate!r} must hold pictures of at least {recipe.data.crop} px a side to "
            f"validate with, found none"
        )
    return batches


def _planes(image: Tensor) -> Tensor:
    return image.movedim(-1, 1)  # BHWC -> BCHW


def _psnr(result: Tensor, target: Tensor) -> Tensor:
    return peak_signal_noise_ratio(_planes(result), _planes(target), data_range=(0.0, 1.0))


def _ssim(result: Tensor, target: Tensor) -> Tensor:
    pair = _planes(result), _planes(target)
    return structural_similarity_index_measure(*pair, data_range=(0.0, 1.0))


def _texture_error(result: Tensor, target: Tensor) -> Tensor:
    return (measure_richness(result) - measure_richness(target)).abs()


REFERENCE_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": _psnr,
    "ssim": _ssim,
    "texture_error": _texture_error,
}
"""Metrics that need no weights, between two images (1, H, W, 3) in [0, 1]."""


def compare(
    result: Tensor, target: Tensor, lpips: Callable[[Tensor, Tensor], Tensor] | None = None
) -> dict[str, float]:
    """The metrics between two images (1, H, W, 3) in [0, 1]; LPIPS with a function for it."""
    values = {name: float(measure(result, target)) for name, measure in REFERENCE_METRICS.items()}
    if lpips is not None:
        values["lpips"] = float(lpips(_planes(result) * 2 - 1, _planes(target) * 2 - 1))
    return values


def to_image(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) in [-1, 1] to image (B, H, W, 3) in [0, 1], on the CPU."""
    return ((pixels.float().cpu() + 1) / 2).clamp(0, 1).movedim(1, -1)  # BCHW -> BHWC


def validate(
    restore: Callable[[Batch], Tensor],
    batches: list[Batch],
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[dict[str, float], list[Tensor]]:
    """Mean metrics of `restore`, and of the enlarged input for comparison; triptychs to look at.

    Returns:
        Metrics by name, those of the input as input_*; images (H, 3 W, 3) of input, result, target.
    """
    sums: dict[str, float] = {}
    pictures = []
    for batch in batches:
        degraded, target = to_image(batch.degraded), to_image(batch.target)
        result = transfer_color(to_image(restore(batch)), degraded).clamp(0, 1)
        measured = compare(result, target, lpips)
        measured |= {f"input_{k}": v for k, v in compare(degraded, target, lpips).items()}
        for name, value in measured.items():
            sums[name] = sums.get(name, 0.0) + value / len(batches)
        pictures.append(torch.cat([degraded, result, target], dim=2)[0])
    return sums, pictures


def sheet(pictures: list[Tensor]) -> Tensor:
    """Triptychs of one size, one below the other."""
    width = max(p.shape[1] for p in pictures)
    return torch.cat([F.pad(p, (0, 0, 0, width - p.shape[1])) for p in pictures])
