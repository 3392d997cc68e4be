"""Seeded noise in latent space: it sets how much of the result is generated.

The paper adds random noise of a chosen strength to the encoder's latent and reports that the
results become more diverse; it gives no formula. Ours, where y is the scaled latent (unit variance)
after encoding and before the step, n is standard normal and m is a mask:

    y' = y + strength * m * n

The noise depends only on the image and its seed: every item has its own seed and generator, and n
is drawn on the CPU in float32 for any device and dtype of the latent. It does not depend on the
position in the batch, on tiles, or on the global random state.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .tiling import CELL_PX

MAX_SEED = 2**64 - 1  # the largest value of the host's seed widget


def seeded_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A separate generator for one seed; all 64 bits of the seed count.

    torch's CPU generator (a 32-bit Mersenne twister) uses only the lower half of a seed: 0 and
    2**32 would draw the same numbers. So the upper half is mixed (with MurmurHash3's final steps, a
    bijection that keeps 0) and combined with the lower half. Seeds below 2**32 behave as in torch,
    and two seeds that share one half never coincide.

    Args:
        seed: 0 to 2**64 - 1.
        device: the generator's device.

    Raises:
        ValueError: if the seed is outside its range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be between 0 and 2**64 - 1, got {seed}")
    high, low = divmod(int(seed), 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        high = (high ^ high >> shift) * factor % 2**32
    return torch.Generator(device=device).manual_seed(low ^ high)


def standard_normal(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal numbers for one item: the same on every machine for one shape and seed.

    Args:
        shape: shape of one item, without the batch axis.
        seed: 0 to 2**64 - 1.

    Returns:
        float32 tensor of that shape on the CPU.
    """
    generator = seeded_generator(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")


def latent_mask(
    mask: Tensor,
    latent_size: tuple[int, int],
    size: tuple[int, int] | None = None,
    *,
    cell_px: int = CELL_PX,
) -> Tensor:
    """A pixel mask as one weight per latent cell: the mean over the cell's image pixels.

    The image is at the top left of the padded latent. Padding pixels do not count. A cell with only
    padding takes the weight of the nearest cell with image pixels, because it reflects that cell.

    Args:
        mask: (B,H,W) in [0,1], at the image's true size.
        latent_size: (h, w) of the latent.
        size: true size (H, W) of the image in pixels; None means the whole latent.
        cell_px: side of a latent cell in pixels.

    Returns:
        (B,1,h,w) float32 in [0,1].

    Raises:
        ValueError: if the mask does not have the image's size, or the image does not fit the
            latent.
    """
    h, w = latent_size
    height, width = size if size is not None else (h * cell_px, w * cell_px)
    rows, columns = math.ceil(height / cell_px), math.ceil(width / cell_px)
    if not (0 < rows <= h and 0 < columns <= w):
        raise ValueError(
            f"an image of {height}x{width} px does not fit a latent of {h}x{w} cells of {cell_px} "
            "px; use the latent that was encoded from this image"
        )
    if mask.ndim != 3 or tuple(mask.shape[1:]) != (height, width):
        got = "x".join(str(side) for side in mask.shape[1:])
        raise ValueError(
            f"the mask must have the size (height x width) of the encoded image, {height}x{width}, "
            f"got {got}; resize the mask"
        )
    if not torch.isfinite(mask).all():
        raise ValueError("the mask must contain finite numbers in [0, 1], but has NaN or infinity")
    true_pixels = F.pad(
        torch.ones(1, 1, height, width, device=mask.device),
        (0, columns * cell_px - width, 0, rows * cell_px - height),
    )
    weights = mask[:, None].float().clamp(0, 1)
    weights = F.pad(weights, (0, columns * cell_px - width, 0, rows * cell_px - height))
    cells = F.avg_pool2d(weights, cell_px) / F.avg_pool2d(true_pixels, cell_px)
    return F.pad(cells, (0, w - columns, 0, h - rows), mode="replicate").clamp(0, 1)


def inject_noise(
    latent: Tensor,
    strength: float | Sequence[float],
    seeds: Sequence[int],
    mask: Tensor | None = None,
    *,
    size: tuple[int, int] | None = None,
    cell_px: int = CELL_PX,
) -> Tensor:
    """Latents with noise: y + strength * mask * n, n standard normal, per item from its seed.

    Args:
        latent: y, (B,C,h,w), scaled.
        strength: standard deviation of the added noise relative to the latent's, at least 0; one
            number, or one per item.
        seeds: one seed per item, each 0 to 2**64 - 1.
        mask: (B or 1,H,W) in [0,1] at the image's true size: multiplies the strength per cell.
        size: true size (H, W) of the image at the top left of the padded latent; used with a
            mask.
        cell_px: side of a latent cell in pixels; used with a mask.

    Returns:
        y', with the shape, dtype and device of `latent`. Where strength or mask is 0 it equals y
        bit for bit; if every strength is 0 it is the same tensor object.

    Raises:
        ValueError: if a strength is negative or not finite, if counts do not match the batch, or if
            the mask does not have the image's size.
    """
    batch = latent.shape[0]
    given = [strength] * batch if isinstance(strength, int | float) else list(strength)
    strengths = [float(value) for value in given]
    for value in strengths:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"noise strength must be a finite number, at least 0, got {value}")
    if len(strengths) != batch:
        raise ValueError(f"{batch} latents need {batch} noise strengths, got {len(strengths)}")
    if len(seeds) != batch:
        raise ValueError(f"{batch} latents need {batch} seeds, got {len(seeds)}")
    scale = torch.tensor(strengths, dtype=torch.float32).reshape(-1, *[1] * (latent.ndim - 1))
    ahead = latent.device.type in ("cuda", "meta")  # does not wait for the device
    scale = scale.to(latent.device, non_blocking=ahead)
    if mask is not None:
        if mask.shape[0] not in (1, batch):
            raise ValueError(f"{batch} latents need 1 or {batch} masks, got {mask.shape[0]}")
        cells = latent_mask(mask, tuple(latent.shape[-2:]), size, cell_px=cell_px)
        scale = scale * cells.to(latent.device)
    if not any(strengths):
        return latent
    noise = torch.stack([standard_normal(latent.shape[1:], seed) for seed in seeds])
    exact = torch.promote_types(latent.dtype, torch.float32)
    noisy = latent.to(exact) + scale * noise.to(latent.device, non_blocking=ahead)
    # torch.where, because adding 0 would turn -0.0 into 0.0
    return torch.where(scale > 0, noisy.to(latent.dtype), latent)
