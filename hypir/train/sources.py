"""Where pictures come from: folders, tables, tar shards, and dead leaves made on the spot.

A source is a list: it has a length and gives picture and caption by number, so a resumed run finds
its place without reading what came before. Captions of files lie in `<name>.txt` beside them.
"""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from .dead_leaves import TEXTURES, LeafCanvas
from .pictures import SUFFIXES, list_pictures, read_picture
from .shards import ShardSource, expand_braces, is_compressed
from .tables import TABLE_SUFFIXES, TableSource
from .texts import read_caption, readable

log = logging.getLogger(__name__)

LEAVES = "leaves:"
ENDLESS = 2**40
"""Length of a source that makes its pictures."""
WANTED = f"pictures ({', '.join(sorted(SUFFIXES))}), .tar shards, or {', '.join(TABLE_SUFFIXES)}"


class Source(Protocol):
    """A numbered list of pictures."""

    name: str
    """For people."""

    def __len__(self) -> int:
        """How many pictures; ENDLESS if they are made."""

    def label(self, index: int) -> str:
        """Name of a picture, for messages."""

    def captions(self) -> Iterator[str]:
        """Captions of all pictures, without reading these; without those that cannot be read."""

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """Picture (H, W, 3) uint8 and caption; raises ValueError, with its name, if unreadable."""


def open_source(text: str, crop: int, seed: int) -> tuple[Source, float]:
    """The source that PATH or PATH:WEIGHT names, and its weight (1 by default).

    Raises:
        FileNotFoundError: if there is nothing at that path.
        ValueError: if nothing there is a picture, or the weight is not positive.
    """
    path, weight = _split_weight(text)
    if not path:
        raise ValueError(f"a data source must name a path, got {text!r}; give {WANTED}")
    if not 0 < weight < math.inf:
        raise ValueError(f"the weight of a data source must be a number above 0, got {text!r}")
    if path.startswith(LEAVES) and path.removeprefix(LEAVES) in ("", *TEXTURES):
        return LeafSource(crop, seed, path.removeprefix(LEAVES)), weight
    return _open_files(path), weight


def _open_files(path: str) -> Source:
    place = Path(path)
    if not place.exists():
        return _open_pattern(path)
    if place.is_file():
        suffix = place.suffix.lower()
        if suffix in TABLE_SUFFIXES:
            return TableSource(place)
        if suffix == ".tar" or is_compressed(place):
            return ShardSource([place], path)
        if suffix in SUFFIXES:
            return FolderSource(place)
        raise ValueError(f"{path!r} is no file of {WANTED}")
    if not place.is_dir():
        raise ValueError(f"{path!r} must be a file or a folder of {WANTED}")
    inside = [file for file in sorted(place.iterdir()) if not file.name.startswith(".")]
    shards = [file for file in inside if file.suffix.lower() == ".tar" or is_compressed(file)]
    if shards:
        beside = sum(file.suffix.lower() in SUFFIXES for file in inside)
        if beside:
            log.warning("%s: its shards are used, the %d pictures beside them not", path, beside)
        return ShardSource(shards, path)
    tables = [file for file in inside if file.suffix.lower() == ".parquet"]
    return TableSource(tables) if tables else FolderSource(place)


def _open_pattern(path: str) -> Source:
    """Shards that braces or a wildcard in their name stand for."""
    shards = [Path(name) for name in expand_braces(path)]
    if any(sign in path for sign in "*?["):
        shards = [file for shard in shards for file in sorted(shard.parent.glob(shard.name))]
    elif len(shards) > 1:
        missing = [shard for shard in shards if not shard.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(shards)} shards of {path!r} do not exist, first "
                f"{str(missing[0])!r}"
            )
    if len(shards) > 1 or (shards and shards[0].exists()):
        return ShardSource(shards, path)
    raise FileNotFoundError(f"there is no data at {path!r}; give {WANTED}, or {LEAVES!r}")


class FolderSource:
    """Pictures below a folder, or a single one."""

    def __init__(self, folder: Path):
        self.name = str(folder)
        self._files = list_pictures(folder)
        if not self._files:
            raise ValueError(f"there is no picture in {str(folder)!r}; give {WANTED}")

    def __len__(self) -> int:
        return len(self._files)

    def label(self, index: int) -> str:
        """The file's path."""
        return str(self._files[index])

    def captions(self) -> Iterator[str]:
        """Texts of the .txt beside the pictures."""
        return readable(read_caption, self._files)

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """Picture and the text of the .txt beside it."""
        file = self._files[index]
        return read_picture(file), read_caption(file)


class LeafSource:
    """Dead leaves without end; neighbouring numbers are crops of one canvas."""

    def __init__(self, crop: int, seed: int, texture: str = ""):
        """`texture`: one of TEXTURES for all shapes, which is then the caption."""
        self.name = LEAVES + texture
        self._crop, self._seed, self._texture = crop, seed, texture
        self._canvas: LeafCanvas | None = None

    def __len__(self) -> int:
        return ENDLESS

    def label(self, index: int) -> str:
        """For messages."""
        return f"{self.name} {index}"

    def captions(self) -> Iterator[str]:
        """The texture, where there is one only."""
        yield self._texture

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """A picture of the crop's size, and its texture where it has one only."""
        number, place = divmod(index, LeafCanvas.CROPS)
        if self._canvas is None or self._canvas.number != number:
            self._canvas = LeafCanvas(self._seed, number, self._crop, self._texture)
        return self._canvas.crop(place), self._texture


def _split_weight(text: str) -> tuple[str, float]:
    path, colon, weight = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        return text, 1.0
    return (f"{path}:" if path == LEAVES[:-1] else path), value
