"""Texture and seam errors of a restored image; PSNR, SSIM and LPIPS come from torchmetrics.

PSNR prefers blurred images. These metrics show whether detail is present and in the right place:
added noise raises `detail_ratio` and lowers `band_correlations`; sharpening raises the first and
leaves the second unchanged.
"""

import torch
from torch import Tensor

from .texture import laplacian_response, luma

BANDS = ("horizontal", "vertical", "diagonal")
"""Bands of one octave: differences of rows, of columns, of both."""


def detail_ratio(result: Tensor, target: Tensor) -> Tensor:
    """Standard deviation of the Laplacian of luma: that of the result divided by the target's.

    Args:
        result, target: images (B, H, W, 3) in [0, 1].

    Returns:
        (B,); 1 for as much fine detail as in the target, 0 for none.
    """
    have, want = (laplacian_response(luma(x)).flatten(1).std(dim=1) for x in (result, target))
    return have / want


def band_correlations(result: Tensor, target: Tensor, octaves: int = 3) -> Tensor:
    """Pearson's correlation of result and target in every band of a Haar wavelet of luma.

    Args:
        result, target: images (B, H, W, 3), with sides of at least 2^octaves px.

    Returns:
        (B, octaves, 3), finest octave first, bands as in BANDS; in [-1, 1].
    """
    planes = luma(result), luma(target)
    rows = []
    for _ in range(octaves):
        (a, have), (b, want) = (haar(plane) for plane in planes)
        rows.append(_correlation(have.flatten(2), want.flatten(2)))
        planes = a, b
    return torch.stack(rows, dim=1)


def haar(plane: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H, W) to the mean of each 2x2 square (B, h, w), and its differences (B, 3, h, w).

    An odd last row or column is dropped.
    """
    height, width = (side // 2 * 2 for side in plane.shape[-2:])
    plane = plane[..., :height, :width]
    a, b = plane[..., 0::2, 0::2], plane[..., 0::2, 1::2]
    c, d = plane[..., 1::2, 0::2], plane[..., 1::2, 1::2]
    bands = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=-3) / 4
    return (a + b + c + d) / 4, bands


def seam_ratio(image: Tensor, borders: list[int], reach: int) -> float:
    """Gradient energy across vertical borders divided by that elsewhere; 1 means invisible borders.

    Args:
        image: (H, W, 3).
        borders: columns where two tiles meet.
        reach: columns on either side that count as the border.
    """
    energy = image.float().diff(dim=1).square().mean(dim=(0, 2))
    near = torch.zeros(len(energy), dtype=torch.bool)
    for column in borders:
        near[max(0, column - reach) : column + reach] = True
    return float(energy[near].mean() / energy[~near].mean())


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation over the last dimension; 0 where one input is constant."""
    a, b = (x - x.mean(dim=-1, keepdim=True) for x in (a, b))
    scale = a.norm(dim=-1) * b.norm(dim=-1)
    return (a * b).sum(dim=-1) / scale.clamp(min=1e-12)
