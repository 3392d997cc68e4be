"""Batches of clean and degraded images, as a pure function of the position in the run.

The pool is that of Real-ESRGAN (Wang et al. 2021, released code): a batch takes random degraded
pairs from the pool and new ones replace them, which separates neighbours in the data (crops of one
canvas, rows of one shard). With `pool_uses` a pair is used several times. A resumed run computes
which numbers are in its pool and makes them again, bit for bit.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hypir.texture import measure_richness

from .data import Mixture, derive_seed
from .degrading import Degradation, Pair, degraded_pair, enlarge, sharpen
from .recipe import Recipe

log = logging.getLogger(__name__)

BLOCK = 12
"""Consecutive numbers of one process: the crops of one dead leaves canvas."""


@dataclass
class Batch:
    """A batch on the training device."""

    target: Tensor
    """Clean pixels (B, 3, H, W) in [-1, 1], the target."""
    degraded: Tensor
    """Degraded pixels, enlarged to the target's size, in [-1, 1]."""
    captions: list[str]
    numbers: list[int]
    """Numbers of the images in the run, which determine seeds."""
    richness: Tensor
    """Texture richness of the target (B,)."""


class _Crops(Dataset):
    """Crops by number, also degraded if the reading processes do that."""

    def __init__(self, mixture: Mixture, degradation: Degradation | None, seed: int):
        self._mixture, self._degradation, self._seed = mixture, degradation, seed

    def __getitem__(self, numbers: tuple[int, ...]) -> list[tuple[Pair, list[tuple[str, str]]]]:
        result = []
        for number in numbers:
            crop, caption, bad = self._mixture.item(number)
            pair = Pair(number, crop, crop, caption)
            if self._degradation is not None:
                pair = degraded_pair(pair, self._degradation, self._seed)
            result.append((pair, bad))
        return result


class _Numbers(Sampler):
    """Groups of numbers: first those of the pool, then an endless series of new ones."""

    def __init__(self, pool: list[int], fresh: int, rank: int, world: int):
        self._pool, self._fresh, self._rank, self._world = pool, fresh, rank, world

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        for start in range(0, len(self._pool), BLOCK):
            group = self._pool[start : start + BLOCK]
            yield tuple(global_number(k, self._rank, self._world) for k in group)
        k = self._fresh
        while True:
            stop = (k // BLOCK + 1) * BLOCK
            yield tuple(global_number(n, self._rank, self._world) for n in range(k, stop))
            k = stop


def global_number(k: int, rank: int, world: int) -> int:
    """Number in the run of a process's k-th image: blocks are distributed round-robin."""
    block, rest = divmod(k, BLOCK)
    return (block * world + rank) * BLOCK + rest


class Feed:
    """Batches of one process, starting at any position in the run."""

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        label: str = "",
        degrade: bool = True,
    ):
        """`position`: number of batches already used; `label`: separate numbers for every stage.

        Without `degrade` the degraded image is the clean one.
        """
        self._recipe, self._device, self._position = recipe, device, position
        self._asked = asked = recipe.data
        self._seed = derive_seed(recipe.seed, f"pool of {label}", rank)
        self._fresh = asked.batch // asked.pool_uses if asked.pool else asked.batch
        self.unreadable: dict[str, str] = {}
        self.mixture = Mixture(asked, recipe.seed)
        slots = list(range(asked.pool))
        for step in range(position if asked.pool else 0):
            for j, slot in enumerate(self._slots(step)[: self._fresh]):
                slots[slot] = asked.pool + step * self._fresh + j
        self._late_degrade = degrade and device.type == "cuda"
        first_fresh = asked.pool + position * self._fresh
        within = recipe.degradation if degrade and not self._late_degrade else None
        loader = DataLoader(
            _Crops(self.mixture, within, recipe.seed),
            batch_size=None,
            sampler=_Numbers(slots, first_fresh, rank, world),
            num_workers=asked.workers,
            collate_fn=_keep,
        )
        self._stream = self._pairs(loader)
        self._pool = [next(self._stream) for _ in slots]

    def next(self) -> Batch:
        """The next batch."""
        if not self._asked.pool:
            pairs = [next(self._stream) for _ in range(self._asked.batch)]
        else:
            slots = self._slots(self._position)
            pairs = [self._pool[slot] for slot in slots]
            for slot in slots[: self._fresh]:
                self._pool[slot] = next(self._stream)
        self._position += 1
        return self._batch(pairs)

    def _slots(self, step: int) -> list[int]:
        """Positions in the pool used by batch `step`."""
        rng = np.random.default_rng([self._seed, step])
        return rng.choice(self._asked.pool, self._asked.batch, replace=False).tolist()

    def _pairs(self, loader: DataLoader) -> Iterator[Pair]:
        for group in loader:
            for pair, bad in group:
                for name, why in bad:
                    self._report(name, why)
                yield self._on_device(pair)

    def _on_device(self, pair: Pair) -> Pair:
        if not self._late_degrade:
            return pair
        clean = pair.clean.to(self._device, non_blocking=True)
        pair = Pair(pair.number, clean, clean, pair.caption)
        return degraded_pair(pair, self._recipe.degradation, self._recipe.seed)

    def _report(self, name: str, why: str) -> None:
        if name not in self.unreadable:
            self.unreadable[name] = why
            count = len(self.unreadable)
            log.warning("%s; skipped, %d so far", why, count)

    def _batch(self, pairs: list[Pair]) -> Batch:
        clean = torch.stack([p.clean for p in pairs]).to(self._device).float() / 255
        large = torch.cat([self._enlarged(p, clean.shape[-2:]) for p in pairs])
        target = sharpen(clean) if self._recipe.degradation.sharpen else clean
        return Batch(
            target=target * 2 - 1,
            degraded=large * 2 - 1,
            captions=[p.caption for p in pairs],
            numbers=[p.number for p in pairs],
            richness=measure_richness(target.movedim(1, -1)),
        )

    def _enlarged(self, pair: Pair, size: torch.Size) -> Tensor:
        small = pair.degraded[None].to(self._device).float() / 255
        return enlarge(small, size)


def _keep(group):
    return group
