"""Detail of the input in the restored image, band by band, where the input can be trusted.

Both images are split by the a-trous wavelet of the colour transfer: b_0 = image, b_{i+1} = b_i
smoothed by the 3x3 binomial dilated by 2^i; band i = b_i - b_{i+1} holds structures of about
2^(i+1) to 2^(i+2) px, i = 0..4. What is left, b_5, belongs to the colour transfer and stays.

    band_i(result) = band_i(image) + fidelity * w_i * (band_i(reference) - band_i(image))

w_i is the reliability of the input per pixel, from the energies r and x of both bands around it:
w_i = 4 r x / (r + x)^2, the square of their geometric over their arithmetic mean. It is 1 where
both have equally strong detail, whatever its shape, .64 where one has twice the amplitude and .04
where one has ten times as much: blur (the input lacks the detail) and noise or JPEG blocks (the
restoration took them away) do not come back. The energy is the mean over colours of the squared
band, smoothed by the binomial dilated by 2^i and 2^(i+1).

This definition is the project's own.
"""

import torch
from torch import Tensor

from .blocks import OnPart, Parts
from .color import WAVELET_LEVELS, smooth, strips
from .image import repeat_items, resize_rows

HALO_PX = 2**WAVELET_LEVELS - 1 + 3 * 2 ** (WAVELET_LEVELS - 1)
"""How far a pixel is read: the low pass, and the smoothing of the coarsest band's energy."""
SMALLEST_ENERGY = 1e-12
"""Added to the energies: where both bands are empty, the reliability is 1 and nothing changes."""


def check_fidelity(fidelity: float) -> None:
    """Raise ValueError unless fidelity is in [0, 1]."""
    if not 0 <= fidelity <= 1:
        raise ValueError(
            f"fidelity must be from 0 (the restored detail) to 1 (the input's), got {fidelity:g}"
        )


def keep_detail_(
    image: Tensor,
    reference: Tensor,
    fidelity: float,
    device: torch.device | None = None,
    on_part: OnPart | None = None,
) -> None:
    """Take the detail of the reference over, in place, strip by strip.

    Args:
        image: (B, H, W, 3), the restored image with the reference's colours; changed.
        reference: (B or 1, H', W', 3), the enlarged input, resized when its size differs.
        fidelity: 0 keeps the image to the bit; 1 takes the reference's detail wherever w_i is 1.
        device: where to compute, None = where the image is.
        on_part: see blocks.OnPart.

    Raises:
        ValueError: if fidelity is outside [0, 1] or the batches do not fit.
    """
    check_fidelity(fidelity)
    reference = repeat_items(reference, image.shape[0])
    if fidelity == 0:
        return
    device = device or image.device
    height, width = image.shape[1:3]
    rows = strips(height, width, HALO_PX)
    parts = Parts(on_part, image.shape[0], len(rows))
    for item, target in zip(image, reference, strict=True):
        above = item[:0]  # the rows above a strip as they were
        for top, bottom in rows:
            first, last = max(top - HALO_PX, 0), min(bottom + HALO_PX, height)
            own = torch.cat([above, item[top:last]])
            other = resize_rows(target, height, width, first, last)
            change = _change(own[None].to(device).float(), other[None].to(device).float())
            above = own[: bottom - first][-HALO_PX:].clone()
            change = change[0, top - first : bottom - first]
            item[top:bottom] += fidelity * change.to(item.device, item.dtype)
            parts.tell()
        parts.end_item()


def _change(image: Tensor, reference: Tensor) -> Tensor:
    """Sum over the bands of w_i * (band_i(reference) - band_i(image)), (B, H, W, 3)."""
    change = torch.zeros_like(image)
    for level in range(WAVELET_LEVELS):
        image_low, reference_low = smooth(image, level), smooth(reference, level)
        own, other = image - image_low, reference - reference_low
        x, r = _energy(own, level), _energy(other, level)
        reliability = (4 * r * x + SMALLEST_ENERGY**2) / ((r + x) ** 2 + SMALLEST_ENERGY**2)
        change += reliability * (other - own)
        image, reference = image_low, reference_low
    return change


def _energy(band: Tensor, level: int) -> Tensor:
    """(B, H, W, 1), the squared band around each pixel."""
    return smooth(smooth((band**2).mean(-1, keepdim=True), level), level + 1)
