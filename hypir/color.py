"""Colour transfer from the input to the restored image.

wavelet: StableSR (Wang et al. 2023), section 3.3: high frequencies of the restored image, low
frequencies of the input, split by the a-trous wavelet of 5 levels: a 3x3 binomial kernel, dilated
by 1, 2, 4, 8, 16, edges replicated. adain: Huang and Belongie 2017: mean and standard deviation per
channel.

Images are (B, H, W, C); values outside [0, 1] are kept, callers clamp at the end.
"""

import torch
from torch import Tensor

from .image import repeat_items, resize

METHODS = ("wavelet", "adain")
WAVELET_LEVELS = 5
HALO_PX = 2**WAVELET_LEVELS - 1
"""How far the low pass reaches: 1 + 2 + 4 + 8 + 16 px."""
STRIP_PX = 256
"""Rows handled at once: bounds the memory of the transfer for any image height."""
FLAT_STD = 1e-4
"""A channel that varies less (a fortieth of a grey level) is flat: what is left is rounding, and
AdaIN would stretch it to the contrast of the reference."""


def low_pass(image: Tensor) -> Tensor:
    """Low frequencies of an image, same shape.

    b_0 = image; b_{i+1}(p) = sum_k w_k b_i(p + 2^i k), w = (1, 2, 1)/4 per axis, i = 0..4.
    """
    for level in range(WAVELET_LEVELS):
        image = _binomial(_binomial(image, 1, 2**level), 2, 2**level)
    return image


def transfer_color(
    image: Tensor,
    reference: Tensor,
    method: str = "wavelet",
    strength: float = 1.0,
    device: torch.device | None = None,
) -> Tensor:
    """The image with the colours of the reference.

    wavelet: image + strength * low_pass(reference - image), which equals high(image) +
    low(reference) at strength 1 since the low pass is linear.
    adain: image + strength * ((image - mean) / std * std_reference + mean_reference - image).

    Args:
        image: (B, H, W, C).
        reference: (B or 1, H', W', C), resized when its size differs.
        method: one of METHODS.
        strength: 0 keeps the image, 1 transfers fully.
        device: where to compute (strip by strip), None = where the image is.

    Returns:
        A new tensor of the image's shape, not clamped; the very same tensor at strength 0.

    Raises:
        ValueError: if the method is unknown or the batches do not fit.
    """
    if strength == 0:
        return image
    result = image.clone()
    transfer_color_(result, reference, method, strength, device)
    return result


def transfer_color_(
    image: Tensor,
    reference: Tensor,
    method: str = "wavelet",
    strength: float = 1.0,
    device: torch.device | None = None,
) -> None:
    """transfer_color in place: beside the image it needs the memory of a strip only."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    reference = repeat_items(reference, image.shape[0])
    transfer = _wavelet_ if method == "wavelet" else _adain_
    for item, target in zip(image, reference, strict=True):
        target = resize(target[None], *item.shape[:2])[0].to(item.device)
        transfer(item, target, strength, device or image.device)


def _wavelet_(image: Tensor, reference: Tensor, strength: float, device: torch.device) -> None:
    """In place on (H, W, C), strip by strip.

    Rows above a strip are already changed, so the difference of the last HALO_PX is carried along.
    """
    height = image.shape[0]
    above = image[:0]
    for top in range(0, height, STRIP_PX):
        bottom = min(top + STRIP_PX, height)
        reach = min(bottom + HALO_PX, height)
        below = reference[top:reach] - image[top:reach]
        difference = torch.cat([above, below])
        low = low_pass(difference[None].to(device))[0, above.shape[0] :][: bottom - top]
        above = difference[: difference.shape[0] - (reach - bottom)][-HALO_PX:].clone()
        image[top:bottom] += strength * low.to(image.device, image.dtype)


def _adain_(image: Tensor, reference: Tensor, strength: float, device: torch.device) -> None:
    """In place on (H, W, C); a flat channel takes the reference's mean only."""
    std, mean = torch.std_mean(image, dim=(0, 1), correction=0)
    std_reference, mean_reference = torch.std_mean(reference, dim=(0, 1), correction=0)
    gain = torch.where(std > FLAT_STD, std_reference / std, torch.ones_like(std))
    scale = 1 + strength * (gain - 1)
    shift = strength * (mean_reference - gain * mean)
    image.mul_(scale).add_(shift)


def _binomial(image: Tensor, dim: int, dilation: int) -> Tensor:
    """(1, 2, 1)/4 along `dim` with edges replicated."""
    last = image.shape[dim] - 1
    index = torch.arange(last + 1, device=image.device)
    before = image.index_select(dim, (index - dilation).clamp_min(0))
    after = image.index_select(dim, (index + dilation).clamp_max(last))
    return before.add_(after).mul_(0.25).add_(image, alpha=0.5)
