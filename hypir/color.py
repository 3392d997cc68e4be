"""Colour transfer from the input to the restored image.

wavelet: StableSR (Wang et al. 2023), section 3.3: high frequencies of the restored image, low
frequencies of the input, split by the a-trous wavelet of 5 levels: a 3x3 binomial kernel, dilated
by 1, 2, 4, 8, 16, edges replicated. adain: Huang and Belongie 2017: mean and standard deviation per
channel. lab: Reinhard et al. 2001, the same for lightness, green-red and blue-yellow, here those of
CIELAB; a black-and-white reference removes all colour.

Images are (B, H, W, C); values outside [0, 1] are kept; callers clamp at the end.
"""

from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor

from .blocks import OnPart, Parts
from .image import repeat_items, resize_rows
from .lab import lab_to_rgb, rgb_to_lab

Convert = Callable[[Tensor], Tensor]

METHODS = ("wavelet", "adain", "lab")
WAVELET_LEVELS = 5
HALO_PX = 2**WAVELET_LEVELS - 1
"""Reach of the low pass: 1 + 2 + 4 + 8 + 16 px."""
STRIP_PX, STRIP_PIXELS = 256, 2**20
"""Most rows and pixels processed at once: bounds the memory of the transfer for any image."""
FLAT_STD = 1e-4
"""A channel with less variation (1/40 of a grey level) counts as flat: the rest is rounding error,
and AdaIN would stretch it to the contrast of the reference."""


def low_pass(image: Tensor) -> Tensor:
    """Low frequencies of an image, same shape.

    b_0 = image; b_{i+1}(p) = sum_k w_k b_i(p + 2^i k), w = (1, 2, 1)/4 per axis, i = 0..4.
    """
    for level in range(WAVELET_LEVELS):
        image = smooth(image, level)
    return image


def smooth(image: Tensor, level: int) -> Tensor:
    """One level of the low pass: the 3x3 binomial dilated by 2^level, (B, H, W, C)."""
    return _binomial(_binomial(image, 1, 2**level), 2, 2**level)


def transfer_color(
    image: Tensor,
    reference: Tensor,
    method: str = "wavelet",
    strength: float = 1.0,
    device: torch.device | None = None,
    on_part: OnPart | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The image with the colours of the reference.

    wavelet: image + strength * low_pass(reference - image), which equals high(image) +
    low(reference) at strength 1, because the low pass is linear.
    adain: image + strength * ((image - mean) / std * std_reference + mean_reference - image).
    lab: the same in CIELAB.

    Args:
        image: (B, H, W, C).
        reference: (B or 1, H', W', C), resized if its size differs.
        method: one of METHODS.
        strength: 0 keeps the image, 1 transfers fully.
        device: device of the computation (strip by strip), None = that of the image.
        on_part: see blocks.OnPart.
        out: output tensor, shaped like `image`; None = a new tensor.

    Returns:
        A new tensor of the image's shape, not clamped; the same tensor object at strength 0.

    Raises:
        ValueError: if the method is unknown, the strength not finite, or the batches do not fit.
    """
    check_strength(strength)
    if strength == 0:
        return image
    result = torch.empty_like(image) if out is None else out
    _transfer(image, result, reference, method, strength, device or image.device, on_part)
    return result


def check_strength(strength: float) -> None:
    """Raise ValueError unless the strength of a transfer is a finite number."""
    if not isfinite(strength):
        raise ValueError(
            f"the strength of the colours must be a finite number, got {strength}; 0 keeps the "
            "image, 1 transfers fully"
        )


def transfer_color_(
    image: Tensor,
    reference: Tensor,
    method: str = "wavelet",
    strength: float = 1.0,
    device: torch.device | None = None,
    on_part: OnPart | None = None,
) -> None:
    """transfer_color in place: besides the image it needs only the memory of a strip."""
    _transfer(image, image, reference, method, strength, device or image.device, on_part)


def _transfer(
    image: Tensor,
    result: Tensor,
    reference: Tensor,
    method: str,
    strength: float,
    device: torch.device,
    on_part: OnPart | None,
) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    reference = repeat_items(reference, image.shape[0])
    transfer = {"wavelet": _wavelet_, "adain": _adain_, "lab": _lab_}[method]
    rows = strips(*image.shape[1:3])
    parts = Parts(on_part, image.shape[0], len(rows) * (1 if method == "wavelet" else 3))
    for item, target, given in zip(result, reference, image, strict=True):
        if result is not image:
            item.copy_(given)
        transfer(item, target, strength, device, rows, parts)
        parts.end_item()


def strips(height: int, width: int, halo: int = HALO_PX) -> list[tuple[int, int]]:
    """(top, bottom) of strips over an image, at least as high as what a filter reaches."""
    rows = min(max(STRIP_PIXELS // width, halo), STRIP_PX)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def _wavelet_(
    image: Tensor,
    reference: Tensor,
    strength: float,
    device: torch.device,
    rows: list[tuple[int, int]],
    parts: Parts,
) -> None:
    """In place on (H, W, C), strip by strip.

    Rows above a strip are already changed, so the difference of the last HALO_PX rows is kept.
    """
    height, width = image.shape[:2]
    above = image[:0]
    for top, bottom in rows:
        reach = min(bottom + HALO_PX, height)
        target = resize_rows(reference, height, width, top, reach).to(image.device)
        difference = torch.cat([above, target - image[top:reach]])
        low = low_pass(difference[None].to(device))[0, above.shape[0] :][: bottom - top]
        above = difference[: difference.shape[0] - (reach - bottom)][-HALO_PX:].clone()
        image[top:bottom] += strength * low.to(image.device, image.dtype)
        parts.tell()


def _adain_(
    image: Tensor,
    reference: Tensor,
    strength: float,
    device: torch.device,
    rows: list[tuple[int, int]],
    parts: Parts,
    space: tuple[Convert, Convert] = (torch.Tensor.float, torch.Tensor.float),
) -> None:
    """In place on (H, W, C); a flat channel takes only the reference's mean.

    `space`: conversion to the space of the moments, and back.
    """
    into, back = space
    height, width = image.shape[:2]
    own, other = _Moments(), _Moments()
    for top, bottom in rows:
        own.add(into(image[top:bottom]))
        parts.tell()
    for top, bottom in rows:
        target = resize_rows(reference, height, width, top, bottom)
        other.add(into(target.to(image.device)))
        parts.tell()
    std, mean = own.variance.sqrt(), own.mean
    gain = torch.where(std > FLAT_STD, other.variance.sqrt() / std, torch.ones_like(std))
    scale = 1 + strength * (gain - 1)
    shift = strength * (other.mean - gain * mean)
    for top, bottom in rows:
        strip = image[top:bottom]
        strip.copy_(back(into(strip) * scale + shift))
        parts.tell()


def _lab_(
    image: Tensor,
    reference: Tensor,
    strength: float,
    device: torch.device,
    rows: list[tuple[int, int]],
    parts: Parts,
) -> None:
    """As _adain_, on lightness and the two colour axes."""
    _adain_(image, reference, strength, device, rows, parts, (_into_lab, lab_to_rgb))


def _into_lab(rows: Tensor) -> Tensor:
    return rgb_to_lab(rows.float())


class _Moments:
    """Mean and variance per channel, accumulated over strips of rows (Chan et al. 1979)."""

    def __init__(self):
        self._count = 0

    def add(self, rows: Tensor) -> None:
        """Add these rows (h, W, C)."""
        std, mean = torch.std_mean(rows.float(), dim=(0, 1), correction=0)
        count = rows.shape[0] * rows.shape[1]
        if not self._count:
            self._count, self.mean, self.variance = count, mean, std**2
            return
        total = self._count + count
        share, gap = count / total, mean - self.mean
        self.mean = self.mean + gap * share
        self.variance = (
            self.variance + (std**2 - self.variance) * share + gap**2 * share * (1 - share)
        )
        self._count = total


def _binomial(image: Tensor, dim: int, dilation: int) -> Tensor:
    """(1, 2, 1)/4 along `dim` with replicated edges."""
    last = image.shape[dim] - 1
    index = torch.arange(last + 1, device=image.device)
    before = image.index_select(dim, (index - dilation).clamp_min(0))
    after = image.index_select(dim, (index + dilation).clamp_max(last))
    return before.add_(after).mul_(0.25).add_(image, alpha=0.5)
