"""What a restoration will take, before it runs: tiles, computation and memory of its three stages.

    stages = plan_stages(2048, 2048, SD2.tile, estimates(SD2, bytes_per_value=2), 8 * 2**30)
    print(describe_stages(stages))

Memory is ComfyUI's own estimate, the one that decides whether a tile is tried at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from .image import latent_size
from .priors import Prior
from .tiling import CELL_PX, VAE_COST, TileCost, TilePlan, fitting, plan_tiles

STAGES = ("encode", "step", "decode")
GIB = 2**30
IMAGE_BYTES = 3 * 4
"""Bytes per pixel of a float32 image in main memory."""
HELD_IMAGES = 2
"""Images in main memory at the end: the enlarged one and the result."""
LARGEST_PX = 32768
"""Longest side that is looked at; beyond a few thousand pixels the tiles hardly change."""

Estimate = Callable[[TilePlan, int], float]
"""(tiles, tiles per call) -> bytes on the device."""

AUTOENCODER = (
    replace(VAE_COST, linear=2.643e-4, quadratic=VAE_COST.quadratic / 2),
    replace(VAE_COST, linear=6.056e-4, quadratic=VAE_COST.quadratic / 2),
)
"""TileCost of encoder and decoder: VAE_COST counted separately, as described in priors.py."""

TINY_AUTOENCODER = (
    replace(VAE_COST, linear=2.986e-5, quadratic=0.0),
    replace(VAE_COST, linear=3.451e-5, quadratic=0.0),
)
"""The same of a TAESD, counted on diffusers' AutoencoderTiny at 512 and 1024 px."""


@dataclass(frozen=True)
class Stage:
    """One of the three stages: its tiles and what they take."""

    name: str
    planned: TilePlan
    """The tiles that need the least computation."""
    tiles: TilePlan
    """The tiles that will run: smaller where the planned ones cannot fit the device."""
    tflop: float
    needed: float | None
    """Bytes on the device for one tile; None if it is not known."""


def plan_stages(
    height: int,
    width: int,
    network: TileCost,
    needed: Mapping[str, Estimate],
    total: float = float("inf"),
    autoencoder: tuple[TileCost, TileCost] = AUTOENCODER,
) -> tuple[Stage, ...]:
    """Encode, step and decode of an image of this size in pixels.

    Args:
        height, width: size of the enlarged image, at least 1.
        network: TileCost of the step.
        needed: the memory estimate of each stage; a stage may be missing.
        total: bytes of the device.
        autoencoder: TileCost of encoder and decoder, for counting; tiles are those of VAE_COST.
    """
    encoder, decoder = autoencoder
    found = []
    for name, cost, counted in (
        ("encode", VAE_COST, encoder),
        ("step", network, network),
        ("decode", VAE_COST, decoder),
    ):
        plan_for = partial(_plan, *latent_size(height, width), cost)
        planned = plan_for(None)
        estimate = needed.get(name)
        tiles = planned if estimate is None else fitting(plan_for, partial(_one, estimate), total)
        tflop = len(tiles.boxes) * counted.of(tiles.rows.tile, tiles.columns.tile)
        bytes_ = None if estimate is None else estimate(tiles, 1)
        found.append(Stage(name, planned, tiles, tflop, bytes_))
    return tuple(found)


def largest_size(
    height: int,
    width: int,
    network: TileCost,
    needed: Mapping[str, Estimate],
    total: float,
) -> tuple[int, int] | None:
    """The largest (height, width) of this shape up to which every size fits with planned tiles.

    A larger image may fit again, because it is cut into smaller tiles. None: every size up to a
    longest side of LARGEST_PX fits. (0, 0): no size does.
    """
    longest = max(height, width)
    largest = (0, 0)
    side = 16
    while side <= LARGEST_PX:
        size = max(1, round(height * side / longest)), max(1, round(width * side / longest))
        stages = plan_stages(*size, network, needed, total)
        if any(s.tiles != s.planned or (s.needed or 0) > total for s in stages):
            return largest
        largest = size
        side += max(16, side // 64 // 16 * 16)
    return None


def estimates(prior: Prior, bytes_per_value: int) -> dict[str, Estimate]:
    """ComfyUI's memory estimates for a prior and its autoencoder at this precision.

    As ComfyUI has them with PyTorch's attention, in bytes times the precision's bytes: 1767 and
    2178 per pixel for the encoder and the decoder, 0.01 MiB times the prior's factor per latent
    cell for the network.
    """

    def per_cell(amount: float) -> Estimate:
        def needed(plan: TilePlan, batch: int = 1) -> float:
            return amount * bytes_per_value * batch * plan.rows.tile * plan.columns.tile

        return needed

    return {
        "encode": per_cell(1767 * CELL_PX**2),
        "step": per_cell(0.01 * 2**20 * prior.memory_factor),
        "decode": per_cell(2178 * CELL_PX**2),
    }


def describe_stages(stages: tuple[Stage, ...]) -> list[str]:
    """One line for each stage, and one for their sum."""
    lines = []
    for stage in stages:
        text = f"{stage.name:22}{stage.tiles.describe()}, {stage.tflop:.1f} TFLOP"
        if stage.needed is not None:
            text += f", {stage.needed / GIB:.2f} GiB per tile"
        if stage.tiles != stage.planned:
            text += f" (smaller: {stage.planned.describe()} would not fit)"
        lines.append(text)
    return [*lines, f"{'in all':22}{sum(s.tflop for s in stages):.1f} TFLOP"]


def describe_size(height: int, width: int) -> str:
    """A size in pixels and megapixels: "2048x1024 px, 2.10 megapixels"."""
    return f"{width}x{height} px, {height * width / 1e6:.2f} megapixels"


def describe_limits(
    height: int,
    width: int,
    network: TileCost,
    needed: Mapping[str, Estimate],
    total: float,
) -> list[str]:
    """The largest image of this shape on the device, and the main memory of this one."""
    largest = largest_size(height, width, network, needed, total)
    if largest is None:
        text = "any size fits without smaller tiles"
    elif largest == (0, 0):
        text = "no size fits without smaller tiles"
    else:
        text = f"{describe_size(*largest)} without smaller tiles"
    held = HELD_IMAGES * IMAGE_BYTES * height * width / GIB
    return [
        f"{'largest':22}{text}",
        f"{'main memory':22}{held:.2f} GiB for the enlarged image and the result",
    ]


def _plan(height: int, width: int, cost: TileCost, limit: int | None) -> TilePlan:
    return plan_tiles(height, width, cost, limit=limit)


def _one(estimate: Estimate, plan: TilePlan) -> float:
    return estimate(plan, 1)
