"""Images of a run: numbered crops from weighted sources.

Every image of a run has a number; (seed, number) determines its source, crop, caption and
degradation. So a resumed run needs no saved state.
"""

import hashlib
from fractions import Fraction
from functools import lru_cache
from math import floor
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .bounds import Bounds, Filled, Share, settings
from .sources import ENDLESS, Source, open_source

SCHEDULE = 1000
"""Number of images in one order; the shares of whole thousands are exact."""
TRIES = 50
"""Number of consecutive unreadable images after which the run stops."""


@settings
class Data:
    """Training data."""

    data: tuple[Annotated[str, Filled("PATH or PATH:WEIGHT")], ...] = ()
    """Image source, repeatable: a folder, a table or shards, as PATH or PATH:WEIGHT; leaves:
    generates dead leaves images."""
    crop: Annotated[int, Bounds(16, 4096, "px", multiple=16)] = 512
    """Side of a training crop."""
    batch: Annotated[int, Bounds(1, 4096, "pictures")] = 1
    """Images per process in one forward pass."""
    resize_to: Annotated[int, Bounds(0, 65_536, "px")] = 0
    """Reduce larger images to this shorter side before the crop; 0 = never."""
    caption_drop: Share = 0.1
    """Probability that a caption is replaced by an empty one."""
    pool: Annotated[int, Bounds(0, 10**6, "pairs")] = 256
    """Size of each process's pool of degraded pairs; 0 = no pool."""
    pool_uses: Annotated[int, Bounds(1, 1000, "times")] = 1
    """Average number of uses of a pair in the pool; increase it if degradation is the
    bottleneck."""
    workers: Annotated[int, Bounds(0, 256, "processes")] = 4
    """Processes that read images, per training process."""
    prefetch: Annotated[int, Bounds(1, 64, "groups")] = 2
    """Groups of 12 images that each of them reads ahead."""
    text_cache: Annotated[float, Bounds(0, 1e6, "GiB")] = 20.0
    """Largest size of all captions' embeddings for which they are computed before the first step
    and kept on disk; the text encoders then leave the GPU. 0 = never."""
    text_folder: str = ""
    """Folder of the embeddings, which runs may share; empty: OUT/text."""

    def rules(self) -> None:
        """Check rules between the fields (ValueError if one fails)."""
        if self.batch % self.pool_uses:
            raise ValueError(
                f"batch must be a multiple of pool_uses, got {self.batch} and {self.pool_uses}"
            )
        if 0 < self.pool < self.batch:
            raise ValueError(f"pool must be at least a batch ({self.batch}), got {self.pool}")


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
        self._weights = [Fraction(repr(weight)) for _, weight in opened]
        self._remember()

    def _remember(self) -> None:
        self._order = lru_cache(4)(self._make_order)
        self._permutation = lru_cache(2 * len(self.sources))(self._make_permutation)

    def __getstate__(self) -> dict[str, Any]:
        # For processes that are not forked: memories of methods cannot be sent.
        return {k: v for k, v in vars(self).items() if k not in ("_order", "_permutation")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._remember()

    def __len__(self) -> int:
        """Number of images in all finite sources."""
        return sum(len(s) for s in self.sources if len(s) < ENDLESS)

    def item(self, number: int) -> tuple[Tensor, str, list[tuple[str, str]]]:
        """Crop (3, crop, crop) uint8, caption, and unreadable images: (label, reason)."""
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
        raise ValueError(f"{TRIES} consecutive images cannot be read, the last one: {bad[-1][1]}")

    def _place(self, number: int) -> tuple[int, int]:
        """(source, number of its images used before)."""
        block, rest = divmod(number, SCHEDULE)
        if len(self.sources) == 1:
            return 0, number
        order = self._order(block)
        source = int(order[rest])
        before = int((order[:rest] == source).sum())
        return source, self.taken(block * SCHEDULE)[source] + before

    def taken(self, count: int) -> list[int]:
        """How many of the first `count` images come from each source, `count` a multiple of 1000.

        Exact in the long run, however small a share: the first k sources together get their share
        of what the first k + 1 get, rounded, which never falls as `count` grows.
        """
        result, rest = [], count
        for k in range(len(self._weights) - 1, 0, -1):
            share = sum(self._weights[:k]) / sum(self._weights[: k + 1])
            inner = floor(rest * share + Fraction(1, 2))
            result.append(rest - inner)
            rest = inner
        return [rest, *reversed(result)]

    def captions(self, most: int) -> list[str] | None:
        """Distinct captions of all sources and the empty one; None if there are more than `most`.

        Captions that cannot be read are left out, as their images are.
        """
        found = {"": None}
        for source in self.sources:
            for caption in source.captions():
                found[caption] = None
                if len(found) > most:
                    return None
        return list(found)

    def _make_order(self, block: int) -> np.ndarray:
        taken = [self.taken(n * SCHEDULE) for n in (block, block + 1)]
        counts = [after - before for before, after in zip(*taken, strict=True)]
        order = np.repeat(np.arange(len(self.sources)), counts)
        seed = derive_seed(self._seed, "order", block)
        return np.random.default_rng(seed).permutation(order)

    def _index(self, source: int, position: int, attempt: int) -> int:
        """Every image once per epoch, in a new order; generated images in sequence."""
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
    """Reduce the image so that the shorter side is `shorter`; smaller images are unchanged."""
    height, width = picture.shape[:2]
    if min(height, width) <= shorter:
        return picture
    factor = shorter / min(height, width)
    size = round(width * factor), round(height * factor)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
