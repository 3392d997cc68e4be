"""Second-order degradation of good images, for training restoration.

One order is blur, resize, noise, JPEG. Two orders, a final sinc filter (overshoot and ringing) and
a random order of the last steps cover most of what cameras, editors and networks do to images.
Source: Real-ESRGAN, Wang et al. 2021 (arXiv 2107.10833), section 3.

Randomness: every item has one seed and its own generators, so item i of a batch equals that item
alone with its seed. Parameters are drawn on the CPU, the same on every machine. Noise is drawn on
the image's device if that is CUDA (a Poisson draw on the CPU would stall training), otherwise on
the CPU. The host's images are on the CPU, so they are the same on every machine.

The building blocks are in degradation_kernels.py, the ranges in degradation_presets.py. Runs on the
CPU and on CUDA, in float32 with JPEG in float64, without gradients.

Memory: every step holds its input and output image, and otherwise only blocks; no step transforms
the whole image at once.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .blocks import OnBlock, OnPart, Parts, blocks
from .degradation_kernels import (
    blur,
    fade,
    gaussian_kernel,
    jpeg,
    plateau_kernel,
    scratch,
    sinc_kernel,
    speck,
)
from .degradation_presets import PRESETS, Aging, Degradation, Order, Range
from .noise import seeded_generator
from .resize import resize

T = TypeVar("T")

KERNEL_SIDES = tuple(range(7, 22, 2))  # px, as published
RESIZE_MODES = ("area", "bilinear", "bicubic")  # equally likely, as published
POISSON_LEVELS = 256  # photons for white at noise scale 1; the published code counts grey levels
MAX_SCALE = 8
DRAWN_AT_ONCE = 2**20
"""Noise values per draw; a multiple of 16, torch's unit for normal numbers, so that the values do
not depend on how many are drawn at once."""
STEPS = 10
"""Approximate number of passes of a recipe over an image of the input's size."""


def degrade(
    image: Tensor,
    preset: str | Degradation,
    scale: int,
    seeds: Sequence[int],
    on_part: OnPart | None = None,
) -> Tensor:
    """Degraded and reduced copies of good images.

    Args:
        image: (B,H,W,3) in [0,1]; no alpha.
        preset: a preset's name (light, medium, heavy, old_photo, web_video), or a recipe.
        scale: output side = max(1, round(input side / scale)), 1 to 8.
        seeds: one per image, each 0 to 2**64 - 1.
        on_part: see blocks.OnPart.

    Returns:
        (B,h,w,3) in [0,1] at multiples of 1/255, dtype and device of `image`.

    Raises:
        ValueError: if the preset is unknown, the scale not in 1..8, the number of channels not
            three, or the number of seeds not that of the images.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got '{preset}'")
        preset = PRESETS[preset]
    if image.ndim != 4 or image.shape[-1] != 3:
        raise ValueError(
            f"image must be (batch, height, width, 3), got {tuple(image.shape)}; "
            "drop the alpha channel first"
        )
    pixels = image.movedim(-1, 1)  # BHWC -> BCHW
    return degrade_pixels(pixels, preset, scale, seeds, on_part).movedim(1, -1)  # -> BHWC


@torch.no_grad()
def degrade_pixels(
    pixels: Tensor,
    recipe: Degradation,
    scale: int,
    seeds: Sequence[int],
    on_part: OnPart | None = None,
) -> Tensor:
    """Degrade training tensors (B,3,H,W), but in [0,1]; same result as degrade."""
    if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels must be (batch, 3, height, width), got {tuple(pixels.shape)}")
    if not (isinstance(scale, int) and 1 <= scale <= MAX_SCALE):
        raise ValueError(f"scale must be a whole number from 1 to {MAX_SCALE}, got {scale}")
    if len(seeds) != len(pixels):
        raise ValueError(f"{len(pixels)} images need {len(pixels)} seeds, got {len(seeds)}")
    size = _scaled_size(pixels, scale)
    results = pixels.new_empty(*pixels.shape[:2], *size)
    parts = Parts(on_part, len(pixels), STEPS * len(blocks(*pixels.shape[-2:])))
    for i, seed in enumerate(seeds):
        picture = pixels[i][None].to(torch.float32, memory_format=torch.contiguous_format)
        picture = picture.clamp(0, 1)
        results[i] = _degrade_one(picture, recipe, size, _Dice(seed), parts.tell)[0]
        parts.end_item()
    return results


def _scaled_size(picture: Tensor, scale: int) -> tuple[int, int]:
    height, width = (max(1, round(side / scale)) for side in picture.shape[-2:])
    return height, width


class _Dice:
    """Random parameters of one item, drawn on the CPU."""

    def __init__(self, seed: int):
        self._generator = seeded_generator(seed)

    def uniform(self, bounds: Range) -> float:
        drawn = torch.rand((), generator=self._generator, dtype=torch.float64).item()
        return bounds[0] + drawn * (bounds[1] - bounds[0])

    def chance(self, probability: float) -> bool:
        return self.uniform((0, 1)) < probability

    def integer(self, bounds: tuple[int, int]) -> int:
        """A whole number, both bounds included."""
        return math.floor(self.uniform((bounds[0], bounds[1] + 1)))

    def choose(self, options: Sequence[tuple[T, float]]) -> T:
        """One of the options, drawn by weight."""
        left = self.uniform((0, sum(weight for _, weight in options)))
        for option, weight in options:
            if left < weight:
                return option
            left -= weight
        return options[-1][0]

    def generator(self, device: torch.device) -> torch.Generator:
        """A separate generator for one step's noise, so that sizes do not shift later draws."""
        return seeded_generator(self.integer((0, 2**32 - 1)), device)


def _degrade_one(
    picture: Tensor, recipe: Degradation, size: tuple[int, int], dice: _Dice, tell: OnBlock
) -> Tensor:
    """degrade_pixels for a batch of one, which is changed."""
    *orders, last = recipe.orders
    for order in orders:
        picture = _blurred(picture, order, dice, tell)
        picture = _resized(picture, order, dice, picture.shape[-2:], recipe.antialias, tell)
        picture = _noisy(picture, order, dice, tell).clamp_(0, 1)
        picture = _compressed(picture, order, dice, tell)
    if recipe.aging is not None:
        picture = _aged(picture, recipe.aging, dice, tell)
    picture = _blurred(picture, last, dice, tell)
    picture = _resized(picture, last, dice, size, recipe.antialias, tell)
    picture = _noisy(picture, last, dice, tell).clamp_(0, 1)
    # A further resize to the size of the result, with the last sinc before or after the last JPEG:
    # an image that is scaled after compression no longer has blocks of 8 px.
    jpeg_first = dice.chance(recipe.jpeg_first)
    if jpeg_first:
        picture = _compressed(picture, last, dice, tell)
    picture = _interpolate(picture, size, dice, recipe.antialias, tell)
    if dice.chance(recipe.final_sinc):
        cutoff = dice.uniform((math.pi / 3, math.pi))
        kernel = sinc_kernel(dice.choose([(k, 1) for k in KERNEL_SIDES]), cutoff)
        picture = blur(picture, kernel, tell)
    picture.clamp_(0, 1)
    if not jpeg_first:
        picture = _compressed(picture, last, dice, tell)
    return picture.mul_(255).round_().div_(255)


def _blurred(picture: Tensor, order: Order, dice: _Dice, tell: OnBlock) -> Tensor:
    """Apply a random kernel, with the order's probability."""
    if not dice.chance(order.blur):
        return picture
    side = dice.choose([(k, 1) for k in KERNEL_SIDES])
    if dice.chance(order.sinc):
        lowest = math.pi / 3 if side < 13 else math.pi / 5  # as published
        return blur(picture, sinc_kernel(side, dice.uniform((lowest, math.pi))), tell)
    kind = dice.choose(order.kernels)
    sigma = (dice.uniform(order.sigma),) * 2
    angle = 0.0
    if kind.endswith("aniso"):
        sigma = (sigma[0], dice.uniform(order.sigma))
        angle = dice.uniform((-math.pi, math.pi))
    if kind.startswith("plateau"):
        kernel = plateau_kernel(side, sigma, angle, _beta(order.beta_plateau, dice))
    elif kind.startswith("generalized"):
        kernel = gaussian_kernel(side, sigma, angle, _beta(order.beta_generalized, dice))
    else:
        kernel = gaussian_kernel(side, sigma, angle)
    return blur(picture, kernel, tell)


def _beta(bounds: Range, dice: _Dice) -> float:
    """A shape parameter: below and above 1 equally likely, as published."""
    low, high = bounds
    return dice.uniform((low, 1.0)) if dice.chance(0.5) else dice.uniform((1.0, high))


def _resized(
    picture: Tensor,
    order: Order,
    dice: _Dice,
    whole: tuple[int, int],
    antialias: bool,
    tell: OnBlock,
) -> Tensor:
    """Resize by a random factor relative to a size (height, width)."""
    up, down, keep = order.resize
    bounds = dice.choose(
        [((1.0, order.factor[1]), up), ((order.factor[0], 1.0), down), ((1.0, 1.0), keep)]
    )
    factor = dice.uniform(bounds)
    size = max(1, round(whole[0] * factor)), max(1, round(whole[1] * factor))
    return _interpolate(picture, size, dice, antialias, tell)


def _interpolate(
    picture: Tensor, size: tuple[int, int], dice: _Dice, antialias: bool, tell: OnBlock
) -> Tensor:
    """Resize to a size with a random method; unchanged if it has that size."""
    mode = dice.choose([(mode, 1) for mode in RESIZE_MODES])
    if tuple(picture.shape[-2:]) == size:
        return picture
    return resize(picture, size, mode, antialias, tell)


def _noisy(picture: Tensor, order: Order, dice: _Dice, tell: OnBlock) -> Tensor:
    """Add Gaussian or Poisson noise, coloured or grey, perhaps; in place, not clamped."""
    if not dice.chance(order.noise):
        return picture
    gaussian, gray = dice.chance(order.gaussian), dice.chance(order.gray)
    strength = dice.uniform(order.gaussian_sigma if gaussian else order.poisson_scale)
    device = picture.device if picture.device.type == "cuda" else torch.device("cpu")
    generator = dice.generator(device)
    picture = picture.contiguous()
    # Rows that share their noise: three channels for grey noise, otherwise all values in one row.
    planes = picture.view(3, -1) if gray else picture.view(1, -1)
    weights = picture.new_tensor((0.299, 0.587, 0.114) if gray else (1.0,))[:, None]
    for part in _drawn_together(planes, device):
        light = (part.clamp(0, 1) * weights).sum(0)
        if gaussian:
            noise = torch.randn(light.shape, generator=generator, device=device) / 255
        else:
            photons = light.to(device) * POISSON_LEVELS
            noise = (torch.poisson(photons, generator=generator) - photons) / POISSON_LEVELS
        part += strength * noise.to(picture.device)
        tell()
    return picture


def _drawn_together(planes: Tensor, device: torch.device) -> list[Tensor]:
    """Views of the planes (n, N) whose noise is drawn in turn; a GPU draws all at once."""
    count = planes.shape[1]
    if device.type == "cuda":
        return [planes]
    # torch draws fewer than 16 numbers differently, so a short rest joins the last part.
    starts = range(0, max(count - 15, 1), DRAWN_AT_ONCE)
    stops = [*starts[1:], count]
    return [planes[:, start:stop] for start, stop in zip(starts, stops, strict=True)]


def _compressed(picture: Tensor, order: Order, dice: _Dice, tell: OnBlock) -> Tensor:
    """Compress with JPEG of random quality, if the order includes it."""
    return picture if order.quality is None else jpeg(picture, dice.integer(order.quality), tell)


def _aged(picture: Tensor, aging: Aging, dice: _Dice, tell: OnBlock) -> Tensor:
    """A faded print with scratches and dust, whose size grows with the image, from about 1 px."""
    white, cast = dice.uniform(aging.white), dice.uniform(aging.cast)
    picture = fade(
        picture,
        dice.uniform(aging.black),
        (white, white * (1 - cast / 3), white * (1 - cast)),
        dice.uniform(aging.saturation),
        tell,
    )
    side = min(picture.shape[-2:])
    for _ in range(dice.integer(aging.scratches)):
        start = dice.uniform((-1.5, 0.3))
        picture = scratch(
            picture,
            through=(dice.uniform((0, 1)), dice.uniform((0, 1))),
            angle=dice.choose([(dice.uniform((-0.2, 0.2)), 0.7), (dice.uniform((-1.6, 1.6)), 0.3)]),
            wobble=(dice.uniform((0, 0.006)), dice.uniform((0.3, 1.5)), dice.uniform((0, 6.3))),
            span=(start, start + dice.uniform((0.2, 2.5))),
            half_width=max(0.5, side * dice.uniform((0.0003, 0.0015))),
            strength=dice.uniform((0.25, 0.9)),
            tone=dice.choose([(0.95, 0.8), (0.1, 0.2)]),
            on_block=tell,
        )
    for _ in range(dice.integer(aging.specks)):
        radius = max(0.6, side * dice.uniform((0.0006, 0.004)))
        speck(
            picture,
            centre=(dice.uniform((0, 1)), dice.uniform((0, 1))),
            radius=(radius * dice.uniform((1, 3)), radius),
            angle=dice.uniform((0, math.pi)),
            strength=dice.uniform((0.3, 0.95)),
            tone=dice.choose([(0.95, 0.65), (0.1, 0.35)]),
        )
    return picture
