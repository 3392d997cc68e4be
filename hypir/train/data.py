"""Batches of clean and degraded pictures, as a pure function of the place in the run.

Every picture of a run has a number, and source, crop, caption and degradation follow from (seed,
number); every process has its own numbers. A run that resumes at a step therefore needs no saved
state: it computes which numbers lie in its pool and makes them again, to the same bits.

The pool is that of Real-ESRGAN (Wang et al. 2021, released code): degraded pairs wait, a batch
takes random ones and fresh ones take their places, so that neighbours in the data (crops of one
canvas, rows of one shard) come apart. With `pool_uses` a pair is used several times.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hypir.degradation import degrade_pixels
from hypir.degradation_kernels import blur, gaussian_kernel
from hypir.degradation_presets import training
from hypir.texture import measure_richness

from .recipe_rules import KINDS
from .recipes import Recipe
from .sources import ENDLESS, Source, open_source

log = logging.getLogger(__name__)

BLOCK = 12
"""Numbers that one process takes in a row: the crops of one canvas of dead leaves."""
SCHEDULE = 1000
"""Pictures after which the sources have had their shares exactly."""
TRIES = 50
"""Unreadable pictures in a row after which the data are no data."""


@dataclass
class Batch:
    """Some pictures on the training device."""

    target: Tensor
    """Clean pixels (B, 3, H, W) in [-1, 1], what the result is compared with."""
    degraded: Tensor
    """Degraded pixels, enlarged to the target's size, in [-1, 1]."""
    captions: list[str]
    numbers: list[int]
    """Of the pictures in the run: seeds follow from them."""
    richness: Tensor
    """Texture richness of the target (B,)."""


@dataclass
class Pair:
    """A picture as it waits, in bytes."""

    number: int
    clean: Tensor
    degraded: Tensor
    caption: str


def derive_seed(seed: int, purpose: str, number: int) -> int:
    """A 64-bit seed for one purpose and number of a run."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


class Mixture:
    """Numbered crops from weighted sources."""

    def __init__(self, recipe: Recipe):
        if not recipe.data:
            raise ValueError("training needs data; name at least one --data PATH")
        self.recipe = recipe
        opened = [open_source(text, recipe.crop, recipe.seed) for text in recipe.data]
        self.sources: list[Source] = [source for source, _ in opened]
        weights = np.array([weight for _, weight in opened])
        bounds = np.round(np.cumsum(weights / weights.sum()) * SCHEDULE).astype(int)
        self._counts = np.diff(bounds, prepend=0)
        if (self._counts == 0).any():
            raise ValueError(
                f"the weights of the data differ by more than {SCHEDULE}x; one would never be seen"
            )
        self._order = lru_cache(4)(self._make_order)
        self._permutation = lru_cache(2 * len(opened))(self._make_permutation)

    def __len__(self) -> int:
        """Pictures in all finite sources."""
        return sum(len(s) for s in self.sources if len(s) < ENDLESS)

    def item(self, number: int) -> tuple[Tensor, str, list[tuple[str, str]]]:
        """Crop (3, crop, crop) uint8, caption, and unreadable pictures met: (label, reason)."""
        bad = []
        source, position = self._place(number)
        for attempt in range(TRIES):
            index = self._index(source, position, attempt)
            try:
                picture, caption = self.sources[source].read(index)
            except (OSError, ValueError) as error:
                bad.append((self.sources[source].label(index), str(error)))
                continue
            crop = self._crop(picture, number)
            if derive_seed(self.recipe.seed, "caption", number) / 2**64 < self.recipe.caption_drop:
                caption = ""
            return crop, caption, bad
        raise ValueError(f"{TRIES} pictures in a row cannot be read, the last: {bad[-1][1]}")

    def _place(self, number: int) -> tuple[int, int]:
        """(source, how many of its pictures came before)."""
        block, rest = divmod(number, SCHEDULE)
        if len(self.sources) == 1:
            return 0, number
        order = self._order(block)
        source = int(order[rest])
        before = int((order[:rest] == source).sum())
        return source, block * int(self._counts[source]) + before

    def _make_order(self, block: int) -> np.ndarray:
        order = np.repeat(np.arange(len(self.sources)), self._counts)
        seed = derive_seed(self.recipe.seed, "order", block)
        return np.random.default_rng(seed).permutation(order)

    def _index(self, source: int, position: int, attempt: int) -> int:
        """Every picture once per epoch, in a new order; made pictures as they come."""
        length = len(self.sources[source])
        if length == ENDLESS:
            return position + attempt
        epoch, place = divmod(position, length)
        permutation = self._permutation(source, epoch)
        return (int(permutation[place]) + attempt) % length

    def _make_permutation(self, source: int, epoch: int) -> np.ndarray:
        seed = derive_seed(self.recipe.seed, f"epoch of source {source}", epoch)
        return np.random.default_rng(seed).permutation(len(self.sources[source]))

    def _crop(self, picture: np.ndarray, number: int) -> Tensor:
        side = self.recipe.crop
        rng = np.random.default_rng(derive_seed(self.recipe.seed, "crop", number))
        if self.recipe.resize_to:
            picture = shrink(picture, max(self.recipe.resize_to, side))
        height, width = picture.shape[:2]
        if height < side or width < side:
            grow = [(0, max(0, side - height)), (0, max(0, side - width)), (0, 0)]
            picture = np.pad(picture, grow, mode="symmetric")
            height, width = picture.shape[:2]
        y, x = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        crop = picture[y : y + side, x : x + side]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(crop)).movedim(-1, 0)  # HWC -> CHW


def shrink(picture: np.ndarray, shorter: int) -> np.ndarray:
    """Reduced so that the shorter side is `shorter`; smaller pictures as they are."""
    height, width = picture.shape[:2]
    if min(height, width) <= shorter:
        return picture
    factor = shorter / min(height, width)
    size = round(width * factor), round(height * factor)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def degrade_and_enlarge(clean: Tensor, scale: int, seeds: Sequence[int], recipe=None) -> Tensor:
    """(B, 3, H, W) in [0, 1] degraded by training's recipe and enlarged again (bicubic)."""
    return enlarge(degrade_pixels(clean, recipe or training(), scale, seeds), clean.shape[-2:])


def enlarge(small: Tensor, size: torch.Size) -> Tensor:
    """(B, 3, h, w) in [0, 1] at the size (H, W), bicubic."""
    return F.interpolate(small, size, mode="bicubic", align_corners=False).clamp(0, 1)


def sharpen(clean: Tensor) -> Tensor:
    """Unsharp mask on (B, 3, H, W) in [0, 1], with the parameters published with Real-ESRGAN.

    residual = picture - G(picture), G Gaussian of 51 px (sigma 8); where |residual| > 10/255,
    softened by G, the picture becomes picture + 0.5 residual.
    """
    kernel = gaussian_kernel(51, (8.0, 8.0), 0.0)
    residual = clean - blur(clean, kernel)
    mask = blur((residual.abs() > 10 / 255).to(clean), kernel)
    return clean + mask * ((clean + 0.5 * residual).clamp(0, 1) - clean)


class _Crops(Dataset):
    """Crops by number, degraded as well where that happens in the reading processes."""

    def __init__(self, mixture: Mixture, degrade: bool):
        self._mixture, self._degrade = mixture, degrade

    def __getitem__(self, numbers: tuple[int, ...]) -> list[tuple[Pair, list[tuple[str, str]]]]:
        result = []
        for number in numbers:
            crop, caption, bad = self._mixture.item(number)
            pair = Pair(number, crop, crop, caption)
            if self._degrade:
                pair = degraded_pair(pair, self._mixture.recipe)
            result.append((pair, bad))
        return result


def degraded_pair(pair: Pair, recipe: Recipe) -> Pair:
    """The pair with its degraded side made, small, in bytes."""
    seed = derive_seed(recipe.seed, "degradation", pair.number)
    draw = np.random.default_rng(derive_seed(recipe.seed, "kind of degradation", pair.number))
    kind = recipe.degradations[draw.integers(len(recipe.degradations))]
    scale = recipe.scales[draw.integers(len(recipe.scales))]
    small = degrade_pixels(pair.clean[None].float() / 255, KINDS[kind], scale, [seed])[0]
    return Pair(pair.number, pair.clean, (small * 255).round().to(torch.uint8), pair.caption)


class _Numbers(Sampler):
    """Groups of numbers, first those of the pool, then fresh ones without end."""

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
    """Number in the run of the k-th picture of a process: blocks go round among the processes."""
    block, rest = divmod(k, BLOCK)
    return (block * world + rank) * BLOCK + rest


class Feed:
    """Batches of one process, from any place of the run on."""

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
        """`position`: batches that were taken before; `label`: own numbers for every stage.

        Without `degrade` the degraded side is the clean one.
        """
        self._recipe, self._device, self._position = recipe, device, position
        self._seed = derive_seed(recipe.seed, f"pool of {label}", rank)
        self._fresh = recipe.batch // recipe.pool_uses if recipe.pool else recipe.batch
        self.unreadable: dict[str, str] = {}
        self.mixture = Mixture(recipe)
        slots = list(range(recipe.pool))
        for step in range(position if recipe.pool else 0):
            for j, slot in enumerate(self._slots(step)[: self._fresh]):
                slots[slot] = recipe.pool + step * self._fresh + j
        self._late_degrade = degrade and device.type == "cuda"
        first_fresh = recipe.pool + position * self._fresh
        loader = DataLoader(
            _Crops(self.mixture, degrade and not self._late_degrade),
            batch_size=None,
            sampler=_Numbers(slots, first_fresh, rank, world),
            num_workers=recipe.workers,
            collate_fn=_keep,
        )
        self._stream = self._pairs(loader)
        self._pool = [next(self._stream) for _ in slots]

    def next(self) -> Batch:
        """The next batch."""
        if not self._recipe.pool:
            pairs = [next(self._stream) for _ in range(self._recipe.batch)]
        else:
            slots = self._slots(self._position)
            pairs = [self._pool[slot] for slot in slots]
            for slot in slots[: self._fresh]:
                self._pool[slot] = next(self._stream)
        self._position += 1
        return self._batch(pairs)

    def _slots(self, step: int) -> list[int]:
        """Places of the pool that batch `step` takes."""
        rng = np.random.default_rng([self._seed, step])
        return rng.choice(self._recipe.pool, self._recipe.batch, replace=False).tolist()

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
        return degraded_pair(Pair(pair.number, clean, clean, pair.caption), self._recipe)

    def _report(self, name: str, why: str) -> None:
        if name not in self.unreadable:
            self.unreadable[name] = why
            count = len(self.unreadable)
            log.warning("%s; left out, %d so far", why, count)

    def _batch(self, pairs: list[Pair]) -> Batch:
        clean = torch.stack([p.clean for p in pairs]).to(self._device).float() / 255
        large = torch.cat([self._enlarged(p, clean.shape[-2:]) for p in pairs])
        target = sharpen(clean) if self._recipe.sharpen else clean
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
