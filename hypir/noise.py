"""Seeded noise in latent space: how much is generated, how much is kept.

The paper adds random noise of a chosen strength to the encoder's latent and reports that the
variety of the results grows with it; it publishes no formula. Ours, with y the scaled latent (unit
variance) after encoding and before the step, n standard normal and m a mask:

    y' = y + strength * m * n

The noise belongs to the picture, not to the computation: every item has its own seed and its own
generator, and n is drawn on the CPU in float32 whatever the latent's device and dtype, so that it
depends neither on the place in the batch, nor on tiles, nor on the global random state.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .tiling import CELL_PX

MAX_SEED = 2**64 - 1  # the largest value of the host's seed widget


def seeded_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one seed, all 64 bits of which count.

    torch's CPU generator (a 32-bit Mersenne twister) reads the lower half of a seed only: 0 and
    2**32 would draw the same numbers. The upper half is mixed (MurmurHash3's final steps, one to
    one, 0 stays 0) and folded in: seeds below 2**32 are torch's own, and two seeds that share one
    half never meet.

    Args:
        seed: 0 to 2**64 - 1.
        device: where the generator draws.

    Raises:
        ValueError: if the seed is outside its range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must lie between 0 and 2**64 - 1, got {seed}")
    high, low = divmod(int(seed), 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        high = (high ^ high >> shift) * factor % 2**32
    return torch.Generator(device=device).manual_seed(low ^ high)


def standard_normal(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal numbers for one item: the same for the same shape and seed, everywhere.

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
    """A pixel mask as one weight per latent cell: the mean over the cell's true pixels.

    The picture lies top left in the padded latent. Pixels of the padding do not count; a cell that
    holds padding only takes the nearest cell with true pixels, whose reflection it shows.

    Args:
        mask: (B,H,W) in [0,1], at the picture's true size.
        latent_size: (h, w) of the latent.
        size: true size (H, W) of the picture in pixels; without it, the whole latent.
        cell_px: side of a latent cell in pixels.

    Returns:
        (B,1,h,w) float32 in [0,1].

    Raises:
        ValueError: if the mask's size is not the picture's, or the picture does not fit the latent.
    """
    h, w = latent_size
    height, width = size if size is not None else (h * cell_px, w * cell_px)
    rows, columns = math.ceil(height / cell_px), math.ceil(width / cell_px)
    if not (0 < rows <= h and 0 < columns <= w):
        raise ValueError(
            f"a picture of {height}x{width} does not fit a latent of {h}x{w} cells "
            f"of {cell_px} px; use the latent that was encoded from this picture"
        )
    if mask.ndim != 3 or tuple(mask.shape[1:]) != (height, width):
        got = "x".join(str(side) for side in mask.shape[1:])
        raise ValueError(
            f"mask must have the picture's size (height x width) {height}x{width}, got {got}; "
            "resize the mask to the encoded picture"
        )
    if not torch.isfinite(mask).all():
        raise ValueError("mask must hold finite numbers in [0, 1], got NaN or infinity")
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
        strength: standard deviation of the added noise in units of the latent's, from 0; one
            number, or one per item.
        seeds: one seed per item, each 0 to 2**64 - 1.
        mask: (B or 1,H,W) in [0,1] at the picture's true size: scales the strength per cell.
        size: true size (H, W) of the picture that lies top left in the padded latent; used with a
            mask.
        cell_px: side of a latent cell in pixels; used with a mask.

    Returns:
        y', shape, dtype and device of `latent`. Where strength or mask is 0 it is y to the bit; if
        every strength is 0 it is the very same tensor.

    Raises:
        ValueError: if a strength is negative or not finite, if counts do not match the batch, or if
            the mask's size is not the picture's.
    """
    batch = latent.shape[0]
    given = [strength] * batch if isinstance(strength, int | float) else list(strength)
    strengths = [float(value) for value in given]
    for value in strengths:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"noise strength must be a finite number from 0 up, got {value}")
    if len(strengths) != batch:
        raise ValueError(f"{batch} latents need {batch} noise strengths, got {len(strengths)}")
    if len(seeds) != batch:
        raise ValueError(f"{batch} latents need {batch} seeds, got {len(seeds)}")
    scale = torch.tensor(strengths, dtype=torch.float32).reshape(-1, *[1] * (latent.ndim - 1))
    scale = scale.to(latent.device)
    if mask is not None:
        if mask.shape[0] not in (1, batch):
            raise ValueError(f"{batch} latents need 1 or {batch} masks, got {mask.shape[0]}")
        cells = latent_mask(mask, tuple(latent.shape[-2:]), size, cell_px=cell_px)
        scale = scale * cells.to(latent.device)
    if not any(strengths):
        return latent
    noise = torch.stack([standard_normal(latent.shape[1:], seed) for seed in seeds])
    exact = torch.promote_types(latent.dtype, torch.float32)
    noisy = latent.to(exact) + scale * noise.to(latent.device)
    # where, not a sum alone: adding 0 would turn -0.0 into 0.0
    return torch.where(scale > 0, noisy.to(latent.dtype), latent)
