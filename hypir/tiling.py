"""Tile plan and blending, shared by the encoder, the step and the decoder.

All lengths are in latent cells (8 x 8 px of the image each), for every stage. A plan covers the
image with evenly spaced tiles of one size, chosen for the least computation. The blend weights sum
to one at every cell, so tiling a pointwise function changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from math import ceil, pi

import torch
from torch import Tensor

CELL_PX = 8
"""Pixels per latent cell and axis, the same for every prior's autoencoder."""


@dataclass(frozen=True)
class Tile:
    """One tile of one item of a batch, in cells."""

    item: int
    y: int
    x: int
    height: int
    width: int

    def crop(self, tensor: Tensor) -> Tensor:
        """The tile's part of a (B, C, h, w) tensor: (1, C, height, width), a view."""
        return self.window(tensor[self.item : self.item + 1])

    def window(self, tensor: Tensor) -> Tensor:
        """The tile's place in every plane of a (..., h, w) tensor, a view."""
        return tensor[..., self.y : self.y + self.height, self.x : self.x + self.width]


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis: `starts` increase, the first is 0, the last tile ends at `length`."""

    length: int
    tile: int
    starts: tuple[int, ...]

    def weights(self, scale: int = 1) -> list[Tensor]:
        """Blend weights of every tile, (tile * scale,) float32, which sum to one at every cell.

        A Hann ramp, w = (1 - cos(pi u)) / 2, over the cells shared with each neighbour. Where more
        than two tiles overlap, it is divided by the sum.
        """
        size = self.tile * scale
        raw = []
        for i in range(len(self.starts)):
            w = torch.ones(size, dtype=torch.float64)
            if i > 0:
                shared = self._shared(i - 1) * scale
                w[:shared] *= _hann_ramp(shared)
            if i + 1 < len(self.starts):
                shared = self._shared(i) * scale
                w[size - shared :] *= _hann_ramp(shared).flip(0)
            raw.append(w)
        total = torch.zeros(self.length * scale, dtype=torch.float64)
        for start, w in zip(self.starts, raw, strict=True):
            total[start * scale : start * scale + size] += w
        return [
            (w / total[start * scale : start * scale + size]).float()
            for start, w in zip(self.starts, raw, strict=True)
        ]

    def _shared(self, i: int) -> int:
        return self.starts[i] + self.tile - self.starts[i + 1]


@dataclass(frozen=True)
class TilePlan:
    """Tiles of one size over a picture of height x width cells."""

    rows: Axis
    columns: Axis

    @cached_property
    def boxes(self) -> tuple[tuple[int, int], ...]:
        """(row, column) indices of all tiles, row by row."""
        return tuple(
            (i, j) for i in range(len(self.rows.starts)) for j in range(len(self.columns.starts))
        )

    def tile(self, item: int, box: tuple[int, int]) -> Tile:
        """The tile at `box` of batch item `item`."""
        i, j = box
        return Tile(
            item,
            self.rows.starts[i],
            self.columns.starts[j],
            self.rows.tile,
            self.columns.tile,
        )

    def describe(self) -> str:
        """A description in pixels: "9 tiles of 768x768 px"."""
        h, w = self.rows.tile * CELL_PX, self.columns.tile * CELL_PX
        count = len(self.boxes)
        return f"{count} tile{'s' if count > 1 else ''} of {w}x{h} px"


@dataclass(frozen=True)
class TileCost:
    """The cost of a stage and the tiles it supports, in cells."""

    constant: float
    """TFLOP per tile (the text tokens of a transformer)."""
    linear: float
    """TFLOP per cell (convolutions, linear layers)."""
    quadratic: float
    """TFLOP per cell squared (self-attention)."""
    smallest: int
    """Shortest planned side if there are several tiles (the training resolution)."""
    largest: int
    """Longest planned side."""
    overlap: int
    """Smallest overlap of neighbours."""
    align: int
    """The side of a tile that does not span its axis is a multiple of this."""
    bound: int | None = None
    """Longest side that the stage supports at all, None = any."""

    def bounded(self, bound: int) -> "TileCost":
        """The same stage with tiles no longer than `bound` (the size of a position table)."""
        return replace(
            self,
            smallest=min(self.smallest, bound),
            largest=min(self.largest, bound),
            bound=bound,
        )

    def of(self, height: int, width: int) -> float:
        """TFLOP of one tile."""
        cells = height * width
        return self.constant + self.linear * cells + self.quadratic * cells**2


VAE_COST = TileCost(
    constant=0.0,
    linear=8.699e-4,  # encoder 2.643e-4 and decoder 6.056e-4 of the SD autoencoder
    quadratic=4.095e-9,  # attention in their middle blocks
    smallest=64,
    largest=144,
    # With random weights, seams disappear at 64 px (docs/performance.md, Seams).
    overlap=8,
    align=4,
)
"""The autoencoder's cost, counted as described in priors.py. The autoencoders of all priors share
one architecture (those of SD3 and Flux differ only in the number of latent channels), one cost, one
plan."""

LADDER = (160, 128, 96, 64, 48, 32)
"""Longest tile side at each step down, for machines without memory for the planned tile (1280 to
256 px)."""


def plan_tiles(
    height: int,
    width: int,
    cost: TileCost,
    tile: int = 0,
    overlap: int = -1,
    limit: int | None = None,
) -> TilePlan:
    """Tiles over height x width cells: the requested ones, or those with the least computation.

    The result depends only on the arguments, so an image gets the same tiles on every machine.

    Args:
        height, width: size of the image in cells, at least 1.
        cost: the cost of the stage.
        tile: requested side, 0 = planned.
        overlap: requested overlap, -1 = planned.
        limit: longest side allowed (a step of LADDER), None = that of the stage.

    Raises:
        ValueError: if a requested tile or overlap cannot be used.
    """
    if tile:
        _check_asked(tile, cost, overlap)
        shared = min(cost.overlap, tile // 2) if overlap < 0 else overlap
        side = tile if limit is None else min(tile, limit)
        shared = min(shared, side - cost.align)
        return TilePlan(_axis(height, side, shared), _axis(width, side, shared))
    shared = cost.overlap if overlap < 0 else overlap
    longest = cost.largest if limit is None else min(limit, cost.largest)
    shared = min(shared, longest // 2)
    best = min(
        (
            (cost.of(th, tw) * rows * columns, rows * columns, th, tw)
            for rows, th in _splits(height, longest, shared, cost)
            for columns, tw in _splits(width, longest, shared, cost)
        ),
    )
    return TilePlan(_axis(height, best[2], shared), _axis(width, best[3], shared))


def cells(px: int, name: str) -> int:
    """A user's size in pixels, converted to cells.

    Raises:
        ValueError: if px is not a multiple of the cell.
    """
    if px > 0 and px % CELL_PX:
        near = ceil(px / CELL_PX) * CELL_PX
        raise ValueError(f"{name} must be a multiple of {CELL_PX} px, got {px}; use {near}")
    return px // CELL_PX if px > 0 else px


def fitting(
    plan_for: Callable[[int | None], TilePlan], needed: Callable[[TilePlan], float], total: float
) -> TilePlan:
    """The planned tiles, or the first smaller ones of LADDER that need at most `total` bytes.

    If the smallest ones need more, it is them.
    """
    plan = plan_for(None)
    while needed(plan) > total and (limit := lower_limit(plan)) is not None:
        plan = plan_for(limit)
    return plan


def lower_limit(plan: TilePlan) -> int | None:
    """The next step of LADDER below the plan's tiles, or None at the end."""
    side = max(plan.rows.tile, plan.columns.tile)
    return next((step for step in LADDER if step < side), None)


def run_tiles(
    plan: TilePlan,
    process: Callable[[list[Tile]], Tensor],
    out: Tensor,
    scale: int = 1,
    batch: int = 1,
    mix_items: bool = True,
    on_batch: Callable[[int, int, Tensor], None] | None = None,
) -> None:
    """Run `process` over all tiles of all items and blend the results into `out`.

    Args:
        plan: the tiles.
        process: n tiles -> (n, C, tile height * scale, tile width * scale).
        out: zeros (B, C, H, W), float32; written in place. If it is smaller than the plan times
            scale (a padded image), everything beyond its right and bottom edge is dropped.
        scale: cells of the result per cell of the plan (8 for the decoder).
        batch: tiles per call.
        mix_items: whether a call may contain tiles of several items.
        on_batch: called with (tiles done, total tiles, out) after every call.
    """
    row_weights = [w.to(out.device)[:, None] for w in plan.rows.weights(scale)]
    column_weights = [w.to(out.device)[None, :] for w in plan.columns.weights(scale)]
    todo = [(item, box) for item in range(out.shape[0]) for box in plan.boxes]
    groups = [todo] if mix_items else _by_item(todo)
    done = 0
    for group in groups:
        for chunk in _chunks(group, batch):
            tiles = [plan.tile(item, box) for item, box in chunk]
            results = process(tiles)
            for (item, (i, j)), tile, result in zip(chunk, tiles, results, strict=True):
                y, x = tile.y * scale, tile.x * scale
                target = out[item, :, y : y + result.shape[-2], x : x + result.shape[-1]]
                h, w = target.shape[-2:]
                result = result[:, :h, :w].to(device=out.device, dtype=out.dtype)
                if len(plan.boxes) == 1:
                    target.copy_(result)
                else:
                    target += result * (row_weights[i][:h] * column_weights[j][:, :w])
            done += len(chunk)
            if on_batch is not None:
                on_batch(done, len(todo), out)


def _by_item(todo: Sequence[tuple]) -> list[list[tuple]]:
    groups: dict[int, list[tuple]] = {}
    for entry in todo:
        groups.setdefault(entry[0], []).append(entry)
    return list(groups.values())


def _chunks(entries: Sequence[tuple], size: int):
    iterator = iter(entries)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _splits(length: int, longest: int, overlap: int, cost: TileCost):
    """(count, side) of every tile side that can be chosen for an axis of `length` cells."""
    if length <= longest:
        yield 1, length
    least = max(min(cost.smallest, longest), overlap + 1)
    for side in range(ceil(least / cost.align) * cost.align, longest + 1, cost.align):
        if side < length:
            yield _count(length, side, overlap), side


def _axis(length: int, tile: int, overlap: int) -> Axis:
    """The fewest evenly spaced tiles of side `tile` that cover `length` with at least `overlap`."""
    if tile >= length:
        return Axis(length, length, (0,))
    count = _count(length, tile, overlap)
    starts = tuple(i * (length - tile) // (count - 1) for i in range(count))
    return Axis(length, tile, starts)


def _count(length: int, tile: int, overlap: int) -> int:
    return ceil((length - overlap) / (tile - overlap))


def _check_asked(tile: int, cost: TileCost, overlap: int) -> None:
    px = tile * CELL_PX
    if tile % cost.align or tile < 2 * cost.align:
        raise ValueError(
            f"tile_size must be a multiple of {cost.align * CELL_PX} px and at least "
            f"{2 * cost.align * CELL_PX} px here, got {px}; use 0 to choose it automatically"
        )
    if cost.bound is not None and tile > cost.bound:
        raise ValueError(
            f"tile_size must be at most {cost.bound * CELL_PX} px for this model, the size of its "
            f"position table, got {px}; lower it, or use 0 to choose it automatically"
        )
    if overlap > tile - cost.align:
        raise ValueError(
            f"overlap must be at most {px - cost.align * CELL_PX} px for a tile of {px} px, "
            f"got {overlap * CELL_PX}; lower the overlap or raise tile_size"
        )


def _hann_ramp(length: int) -> Tensor:
    u = (torch.arange(length, dtype=torch.float64) + 0.5) / max(length, 1)
    return 0.5 - 0.5 * torch.cos(u * pi)
