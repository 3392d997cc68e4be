"""Batches of clean and degraded images, as a pure function of the position in the run.

The pool is that of Real-ESRGAN (Wang et al. 2021, released code): a batch takes random degraded
pairs from the pool and new ones replace them, which separates neighbours in the data (crops of one
canvas, rows of one shard). With `pool_uses` a pair is used several times. A resumed run computes
which numbers are in its pool and makes them again, bit for bit.
"""

import atexit
import logging
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hypir.texture import measure_richness

from .data import Mixture
from .degrading import Degradation, Pair, degraded_pair, enlarge, sharpen
from .order import BLOCK, Order, fresh_per_batch, pool_at, pool_seed, slots_at
from .recipe import Recipe
from .stopping import leave_signals_to_the_main_process

log = logging.getLogger(__name__)


_OPEN: weakref.WeakSet["Feed"] = weakref.WeakSet()
"""Feeds whose workers may still run."""


@atexit.register
def _close_all() -> None:
    """The workers leave signals to the main process, so its end would wait for them without end.

    Registered behind the imports of torch and multiprocessing, this runs before what they do there.
    """
    for feed in list(_OPEN):
        feed.close()


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

    def __init__(self, pool: list[int], fresh: int, rank: int, order: Order):
        self._pool, self._fresh, self._rank, self._order = pool, fresh, rank, order

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        for start in range(0, len(self._pool), BLOCK):
            yield self._numbers(self._pool[start : start + BLOCK])
        k = self._fresh
        while True:
            group = self._order.group(k, self._rank)
            yield self._numbers(group)
            k = group.stop

    def _numbers(self, picks: Iterable[int]) -> tuple[int, ...]:
        return tuple(self._order.number(k, self._rank) for k in picks)


def _groups(loader: DataLoader) -> Iterator:
    """What the loader gives; closing it ends the loader's workers."""
    yield from loader


class Feed:
    """Batches of one process, starting at any position in the run."""

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        position: int = 0,
        rank: int = 0,
        order: Order | None = None,
        label: str = "",
        degrade: bool = True,
    ):
        """`position`: batches that were taken before, since the order is what it is.

        `label`: own numbers for every stage. Without `degrade` the degraded image is the clean one.
        """
        self._recipe, self._device, self._position = recipe, device, position
        self._asked = asked = recipe.data
        self._seed = pool_seed(recipe.seed, label, rank)
        self._fresh = fresh_per_batch(asked)
        self.unreadable: dict[str, str] = {}
        self.mixture = Mixture(asked, recipe.seed)
        slots = pool_at(asked, self._seed, position)
        self._late_degrade = degrade and device.type == "cuda"
        first_fresh = asked.pool + position * self._fresh
        within = recipe.degradation if degrade and not self._late_degrade else None
        loader = DataLoader(
            _Crops(self.mixture, within, recipe.seed),
            batch_size=None,
            sampler=_Numbers(slots, first_fresh, rank, order or Order(1)),
            num_workers=asked.workers,
            prefetch_factor=asked.prefetch if asked.workers else None,
            # Copies from pinned memory go on beside the computation.
            pin_memory=device.type == "cuda",
            collate_fn=_keep,
            worker_init_fn=leave_signals_to_the_main_process,
        )
        self._groups = _groups(loader)
        _OPEN.add(self)
        self._waiting: deque[tuple[Pair, list]] = deque()
        self._pool = [self._next_pair() for _ in slots]

    def next(self) -> Batch:
        """The next batch."""
        if not self._asked.pool:
            pairs = [self._next_pair() for _ in range(self._asked.batch)]
        else:
            slots = slots_at(self._asked, self._seed, self._position)
            pairs = [self._pool[slot] for slot in slots]
            for slot in slots[: self._fresh]:
                self._pool[slot] = self._next_pair()
        self._position += 1
        return self._batch(pairs)

    def close(self) -> None:
        """End the workers; a process that ends closes its feeds by itself."""
        self._groups.close()

    def _next_pair(self) -> Pair:
        # No generator of this object's own: it would keep the object, and with it the workers,
        # until the garbage collector looks.
        while not self._waiting:
            self._waiting.extend(next(self._groups))
        pair, bad = self._waiting.popleft()
        for name, why in bad:
            self._report(name, why)
        return self._on_device(pair)

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
        clean = self._sent(torch.stack([p.clean for p in pairs])).float() / 255
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
        return enlarge(self._sent(pair.degraded[None]).float() / 255, size)

    def _sent(self, pictures: Tensor) -> Tensor:
        return pictures.to(self._device, non_blocking=True)


def _keep(group):
    return group
