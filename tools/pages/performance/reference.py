"""The reference plan: 512 px tiles, 256 px stride, Gaussian blend, the last tile at the edge.

Written from a description of the public implementation's behaviour: each of the three stages is
tiled and blended separately; the sum is kept in bfloat16, and that of the weights in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor
from torch.nn import functional

TILE, STRIDE = 64, 32  # cells
VARIANCE = 0.01  # variance of the blend, in units of the squared tile side: 4e-6 at the edge


def starts(length: int, tile: int = TILE, stride: int = STRIDE) -> list[int]:
    """First cells of the tiles along one axis."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, stride), length - tile]


def count_tiles(height: int, width: int) -> int:
    """Tiles of one stage."""
    return len(starts(height)) * len(starts(width))


def gaussian_weights(tile: int) -> Tensor:
    """(tile, tile); vertically the centre is off by half a cell, as in the public
    implementation."""
    rows = _density((torch.arange(tile) - tile / 2) / tile)
    columns = _density((torch.arange(tile) - (tile - 1) / 2) / tile)
    return rows[:, None] * columns[None, :]


def run_stage(
    source: Tensor,
    process: Callable[[Tensor], Tensor],
    channels: int,
    scale_in: int = 1,
    scale_out: int = 1,
) -> Tensor:
    """`process` over all tiles, blended.

    Args:
        source: (1, C, h, w) in cells times scale_in.
        process: a tile -> (1, channels, its cells times scale_out).
        channels: of the result.
        scale_in, scale_out: 8 for pixels, 1 for latents.

    Returns:
        (1, channels, h, w) in cells times scale_out, bfloat16.
    """
    height, width = (side // scale_in for side in source.shape[-2:])
    shape = (1, channels, height * scale_out, width * scale_out)
    total = torch.zeros(shape, dtype=torch.bfloat16, device=source.device)
    count = torch.zeros(shape, dtype=torch.float32, device=source.device)
    weights = gaussian_weights(TILE * scale_out).to(source.device)
    for y in starts(height):
        for x in starts(width):
            tile = process(_window(source, y, x, scale_in))
            _window(total, y, x, scale_out).add_(tile * weights)
            _window(count, y, x, scale_out).add_(weights)
    return total.div_(count)


def transfer_color(image: Tensor, source: Tensor) -> Tensor:
    """High frequencies of `image` and low ones of `source`, (1, 3, H, W), both split untiled."""
    return _split(image)[0] + _split(source)[1]


def _split(image: Tensor) -> tuple[Tensor, Tensor]:
    """High and low frequencies: five levels of a 3x3 binomial kernel, dilated by 1 to 16."""
    taps = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(taps, taps).expand(3, 1, 3, 3).to(image.device)
    high = torch.zeros_like(image)
    for level in range(5):
        padded = functional.pad(image, [2**level] * 4, mode="replicate")
        low = functional.conv2d(padded, kernel, groups=3, dilation=2**level)
        high += image - low
        image = low
    return high, image


def _window(tensor: Tensor, y: int, x: int, scale: int) -> Tensor:
    rows = slice(y * scale, (y + TILE) * scale)
    return tensor[..., rows, slice(x * scale, (x + TILE) * scale)]


def _density(u: Tensor) -> Tensor:
    return torch.exp(-u.square() / (2 * VARIANCE)) / (2 * pi * VARIANCE) ** 0.5
