"""Layouts, sizes, padding and alpha of images.

The three terms for image tensors:
    image   (B, H, W, C) float in [0, 1], the host's IMAGE; C = 1, 3 or 4 (alpha last)
    pixels  (B, C, H, W) in [-1, 1], the input of an autoencoder
    latent  (B, C, h, w), scaled to unit variance unless stated otherwise

Sizes are always (height, width).
"""

from math import isfinite

import torch
from torch import Tensor

from .tiling import CELL_PX

PAD_PX = 16
"""Images are padded to a multiple of this for every prior. A latent cell is 8 px, and the
transformers of SD3 and Flux take cells in pairs: they would wrap an odd row around to the opposite
edge."""


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The size after padding right and bottom to a multiple of PAD_PX."""
    return -(-height // PAD_PX) * PAD_PX, -(-width // PAD_PX) * PAD_PX


def latent_size(height: int, width: int) -> tuple[int, int]:
    """Latent cells (h, w) of a padded image of this size."""
    h, w = padded_size(height, width)
    return h // CELL_PX, w // CELL_PX


def symmetric_index(start: int, stop: int, size: int) -> Tensor:
    """Source indices of positions start..stop on an axis extended by symmetric reflection.

    A position beyond the edge reads the mirrored pixel, including the edge pixel. The mirrored
    image repeats, so any size from 1 works: 0 1 2 | 2 1 0 | 0 1 2 ...
    """
    position = torch.arange(start, stop) % (2 * size)
    return torch.minimum(position, 2 * size - 1 - position)


def crop_padded(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """A window of an image that is extended by symmetric reflection to the right and bottom.

    Args:
        image: (B, H, W, C).
        top, left, height, width: the window, in pixels; it may reach beyond the image.

    Returns:
        (B, height, width, C); a view when the window lies inside.
    """
    size = image.shape[1:3]
    if top + height <= size[0] and left + width <= size[1]:
        return image[:, top : top + height, left : left + width]
    rows = symmetric_index(top, top + height, size[0]).to(image.device)
    columns = symmetric_index(left, left + width, size[1]).to(image.device)
    return image[:, rows[:, None], columns]


BRIGHTEST_MEAN, DARKEST_MEAN = 4.0, -1.0
"""No picture in [0, 1] has a mean beyond these, even with highlights far above 1 (HDR); one in
[0, 255] does unless it is black."""


def check_image(image: Tensor, name: str = "image") -> None:
    """Raise ValueError, in one sentence, if `image` is not a valid IMAGE."""
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"{name} must be (batch, height, width, 1, 3 or 4 channels) and not empty, "
            f"got {tuple(image.shape)}; connect an IMAGE"
        )
    mean = float(image.sum(dtype=torch.float32)) / image.numel()
    bad = 0 if isfinite(mean) else count_not_finite(image)
    if bad:
        raise ValueError(
            f"{name} must hold finite numbers, but {bad} of {image.numel()} values are NaN or "
            "infinite; the node that made it failed (often a VAE in fp16): use another precision"
        )
    if not image.is_floating_point() or not DARKEST_MEAN <= mean <= BRIGHTEST_MEAN:
        raise ValueError(
            f"{name} must hold floating-point numbers in [0, 1], but it is "
            f"{str(image.dtype).removeprefix('torch.')} with a mean of {mean:.3g}; convert it (for "
            "values up to 255, divide by 255)"
        )


def check_latent(latent: Tensor, channels: int, taker: str, remedy: str) -> None:
    """Raise ValueError, in one sentence, unless this is a finite latent (B, channels, h, w).

    Args:
        latent: what a LATENT holds.
        channels: how many it must have.
        taker: what takes it, with a verb: "the VAE decodes".
        remedy: advice when the shape is another.
    """
    found = tuple(latent.shape) if isinstance(latent, Tensor) else type(latent).__name__
    if isinstance(found, str) or len(found) != 4 or found[1] != channels or 0 in found:
        raise ValueError(
            f"{taker} latents of {channels} channels (batch, channels, height, width), got "
            f"{found}; {remedy}"
        )
    bad = count_not_finite(latent)
    if bad:
        raise ValueError(
            f"a latent must hold finite numbers, but {bad} of {latent.numel()} values are NaN or "
            "infinite; the node that made it failed: run its model or VAE in another precision"
        )


def count_not_finite(tensor: Tensor) -> int:
    """Number of NaN or infinite values; counts only in items whose sum is not finite."""
    # One pass without a temporary, in float32 because Apple's GPUs have no float64. A finite tensor
    # whose sum overflows is also counted, with the result 0.
    if torch.isfinite(tensor.sum(dtype=torch.float32)):
        return 0
    return sum(int((~torch.isfinite(part)).sum()) for part in torch.atleast_1d(tensor))


def color_channels(image: Tensor) -> Tensor:
    """The three colour channels (B, H, W, 3): alpha dropped, gray repeated. A view."""
    return image.expand(*image.shape[:3], 3) if image.shape[-1] == 1 else image[..., :3]


def alpha_channel(image: Tensor) -> Tensor | None:
    """The alpha channel (B, H, W, 1), or None. A view."""
    return image[..., 3:] if image.shape[-1] == 4 else None


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, antialiased when shrinking; (B, H, W, C) to (B, height, width, C)."""
    if image.shape[1:3] == (height, width):
        return image
    pixels = image.movedim(-1, 1).float()  # BHWC -> BCHW; torch has no antialiasing in half
    resized = torch.nn.functional.interpolate(
        pixels, size=(height, width), mode="bilinear", antialias=True
    )
    return resized.movedim(1, -1).to(image.dtype)  # BCHW -> BHWC


def resize_rows(image: Tensor, height: int, width: int, top: int, bottom: int) -> Tensor:
    """Rows top..bottom of `resize`, without the others.

    The resize is separable: the columns are torch's; a row is a mean of source rows, weighted by a
    triangle around its centre that is as wide as the step between rows, at least one.

    Args:
        image: (H, W, C).
        height, width: of the whole result.
        top, bottom: rows of it.

    Returns:
        (bottom - top, width, C); a view where the size is the same.
    """
    if image.shape[:2] == (height, width):
        return image[top:bottom]
    step = image.shape[0] / height
    reach = max(step, 1.0)
    centres = (torch.arange(top, bottom, dtype=torch.float64) + 0.5) * step
    first = max(int(centres[0] - reach), 0)
    last = min(int(centres[-1] + reach) + 1, image.shape[0])
    places = torch.arange(first, last, dtype=torch.float64) + 0.5
    weights = (1 - (places[None] - centres[:, None]).abs() / reach).clamp_min(0)
    weights = (weights / weights.sum(dim=1, keepdim=True)).float().to(image.device)
    source = image[first:last].movedim(-1, 0)[None].float()  # HWC -> BCHW
    wide = torch.nn.functional.interpolate(
        source, size=(last - first, width), mode="bilinear", antialias=True
    )
    return (weights @ wide)[0].movedim(0, -1).to(image.dtype)  # CHW -> HWC


def repeat_items(image: Tensor, count: int) -> Tensor:
    """A batch of one repeated `count` times (a view), or the batch itself if it has `count` items.

    Raises:
        ValueError: if the batch has neither 1 nor `count` items.
    """
    if image.shape[0] not in (1, count):
        raise ValueError(
            f"a reference must have one image, or one per result ({count}), got {image.shape[0]}; "
            "repeat or select it with a batch node"
        )
    return image.expand(count, *image.shape[1:])
