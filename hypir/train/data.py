"""Pictures of a run: numbered crops from weighted sources.

Every picture of a run has a number, and source, crop, caption and degradation follow from (seed,
number). A run that resumes at a step therefore needs no saved state.
"""

import hashlib
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .bounds import Bounds, Filled, Share, settings
from .sources import ENDLESS, Source, open_source

SCHEDULE = 1000
"""Pictures after which the sources have had their shares exactly."""
TRIES = 50
"""Unreadable pictures in a row after which the data are no data."""


@settings
class Data:
    """What is trained on."""

    data: tuple[Annotated[str, Filled("PATH or PATH:WEIGHT")], ...] = ()
    """Sources of pictures, to be repeated: a folder, a table or shards, PATH or PATH:WEIGHT;
    leaves: makes dead leaves."""
    crop: Annotated[int, Bounds(16, 4096, "px", multiple=16)] = 512
    """Side of a training crop."""
    batch: Annotated[int, Bounds(1, 4096, "pictures")] = 1
    """Pictures that one process takes through the network at once."""
    resize_to: Annotated[int, Bounds(0, 65_536, "px")] = 0
    """Shorter side to which larger pictures are reduced before the crop, 0 = not at all."""
    caption_drop: Share = 0.1
    """Chance that a caption is replaced by the empty one."""
    pool: Annotated[int, Bounds(0, 10**6, "pairs")] = 256
    """Degraded pairs that wait in the pool of each process, 0 = none."""
    pool_uses: Annotated[int, Bounds(1, 1000, "times")] = 1
    """How often a pair of the pool is used on average; more where degrading is the bottleneck."""
    workers: Annotated[int, Bounds(0, 256, "processes")] = 4
    """Processes that read pictures, for each training process."""

    def rules(self) -> None:
        """What must hold between them (ValueError otherwise)."""
        if self.batch % self.pool_uses:
            raise ValueError(
                f"batch must be a multiple of pool_uses, got {self.batch} and {self.pool_uses}"
            )
        if 0 < self.pool < self.batch:
            raise ValueError(f"pool must hold a batch ({self.batch}) at least, got {self.pool}")


def derive_seed(seed: int, purpose: str, number: int) -> int:
    """A 64-bit seed for one purpose and number of a run."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


class Mixture:
    """Numbered crops from weighted sources."""

    def __init__(self, asked: Data, seed: int):
        if not asked.data:
            raise ValueError("training needs data; name at least one --data PATH")
        self._asked, self._seed = asked, seed
        opened = [open_source(text, asked.crop, seed) for text in asked.data]
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
            if derive_seed(self._seed, "caption", number) / 2**64 < self._asked.caption_drop:
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
        seed = derive_seed(self._seed, "order", block)
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
        seed = derive_seed(self._seed, f"epoch of source {source}", epoch)
        return np.random.default_rng(seed).permutation(len(self.sources[source]))

    def _crop(self, picture: np.ndarray, number: int) -> Tensor:
        side = self._asked.crop
        rng = np.random.default_rng(derive_seed(self._seed, "crop", number))
        if self._asked.resize_to:
            picture = shrink(picture, max(self._asked.resize_to, side))
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
