"""Where pictures come from: folders, tables, tar shards, and dead leaves made on the spot.

A source is a list: it has a length and gives picture and caption by number, so a resumed run finds
its place without reading what came before. Captions of files lie in `<name>.txt` beside them.
"""

import csv
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from .dead_leaves import TEXTURES, LeafCanvas

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
PATH_COLUMNS = ("image", "path", "file_name", "filename", "file")
CAPTION_COLUMNS = ("caption", "text", "prompt")
LEAVES = "leaves:"
ENDLESS = 2**40
"""Length of a source that makes its pictures."""


class Source(Protocol):
    """A numbered list of pictures."""

    name: str
    """For people."""

    def __len__(self) -> int:
        """How many pictures; ENDLESS if they are made."""

    def label(self, index: int) -> str:
        """Name of a picture, for messages."""

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """Picture (H, W, 3) uint8 and caption; raises OSError or ValueError if unreadable."""


def open_source(text: str, crop: int, seed: int) -> tuple[Source, float]:
    """The source that PATH or PATH:WEIGHT names, and its weight (1 by default).

    Raises:
        FileNotFoundError: if there is nothing at that path.
        ValueError: if nothing there is a picture, or the weight is not positive.
    """
    path, weight = _split_weight(text)
    if weight <= 0:
        raise ValueError(f"the weight of a data source must be above 0, got {text!r}")
    if path.startswith(LEAVES) and path.removeprefix(LEAVES) in ("", *TEXTURES):
        return LeafSource(crop, seed, path.removeprefix(LEAVES)), weight
    place = Path(path)
    if place.suffix in (".csv", ".jsonl", ".parquet") and place.is_file():
        return TableSource(place), weight
    if place.suffix == ".tar" and place.is_file():
        return ShardSource([place], path), weight
    if not place.is_dir():
        raise FileNotFoundError(
            f"there is no data at {path!r}; give a folder of pictures, a .csv, .jsonl or .parquet "
            f"table, .tar shards, or {LEAVES!r}"
        )
    shards = sorted(place.glob("*.tar"))
    return (ShardSource(shards, path) if shards else FolderSource(place)), weight


def list_pictures(folder: Path) -> list[Path]:
    """Pictures below a folder, sorted by path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def read_picture(file: Path | io.BytesIO) -> np.ndarray:
    """Colours (H, W, 3) uint8 of a picture file, upright; alpha dropped."""
    with Image.open(file) as picture:
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


class FolderSource:
    """Pictures below a folder."""

    def __init__(self, folder: Path):
        self.name = str(folder)
        self._files = list_pictures(folder)
        if not self._files:
            raise ValueError(
                f"there is no picture in {str(folder)!r}; expected {', '.join(sorted(SUFFIXES))} "
                f"or .tar shards"
            )

    def __len__(self) -> int:
        return len(self._files)

    def label(self, index: int) -> str:
        """The file's path."""
        return str(self._files[index])

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """Picture and the text of the .txt beside it."""
        file = self._files[index]
        return read_picture(file), _sidecar(file)


class TableSource:
    """Rows of a .csv, .jsonl or .parquet with a column of paths and maybe one of captions."""

    def __init__(self, table: Path):
        self.name = str(table)
        rows = _rows(table)
        columns = set(rows[0]) if rows else set()
        path = next((c for c in PATH_COLUMNS if c in columns), None)
        if path is None:
            raise ValueError(
                f"{table.name} must have a column of picture paths ({', '.join(PATH_COLUMNS)}), "
                f"found {', '.join(sorted(columns)) or 'no rows'}"
            )
        caption = next((c for c in CAPTION_COLUMNS if c in columns), None)
        # Paths are relative to the table.
        self._rows = [
            (table.parent / str(row[path]), str(row[caption] or "") if caption else "")
            for row in rows
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def label(self, index: int) -> str:
        """The picture's path."""
        return str(self._rows[index][0])

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """Picture and the row's caption, or that of the .txt beside the picture."""
        file, caption = self._rows[index]
        return read_picture(file), caption or _sidecar(file)


class ShardSource:
    """Pictures of webdataset shards: `key.jpg` with `key.txt` or `key.json` in a .tar."""

    def __init__(self, shards: Sequence[Path], name: str):
        self.name = name
        self._shards = list(shards)
        self._entries: list[tuple[int, str, int, int, tuple[int, int] | None, str]] = []
        for number, shard in enumerate(self._shards):
            self._entries += _index_shard(number, shard)
        if not self._entries:
            raise ValueError(f"there is no picture in the {len(self._shards)} shards of {name!r}")

    def __len__(self) -> int:
        return len(self._entries)

    def label(self, index: int) -> str:
        """Shard and member."""
        shard, member, *_ = self._entries[index]
        return f"{self._shards[shard]}:{member}"

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """Picture and caption, read from their places in the shard."""
        shard, _, start, size, text, kind = self._entries[index]
        with open(self._shards[shard], "rb") as file:
            file.seek(start)
            picture = read_picture(io.BytesIO(file.read(size)))
            if text is None:
                return picture, ""
            file.seek(text[0])
            caption = file.read(text[1]).decode("utf-8")
        if kind == ".json":
            found = json.loads(caption)
            caption = next((str(found[c]) for c in CAPTION_COLUMNS if c in found), "")
        return picture, caption.strip()


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


def _sidecar(file: Path) -> str:
    beside = file.with_suffix(".txt")
    return beside.read_text(encoding="utf-8").strip() if beside.is_file() else ""


def _rows(table: Path) -> list[dict]:
    if table.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(table).to_pylist()
    with open(table, encoding="utf-8", newline="") as file:
        if table.suffix == ".csv":
            return list(csv.DictReader(file))
        return [json.loads(line) for line in file if line.strip()]


def _index_shard(number: int, shard: Path) -> list:
    """(shard, member, start, size, (start, size) of the caption, its kind) of every picture."""
    pictures, texts = {}, {}
    with tarfile.open(shard) as archive:
        for member in archive:
            if not member.isfile():
                continue
            # The key ends at the first dot of the file name.
            folder, _, leaf = member.name.rpartition("/")
            key = f"{folder}/{leaf.partition('.')[0]}"
            suffix = Path(leaf).suffix.lower()
            place = (member.offset_data, member.size)
            if suffix in SUFFIXES:
                pictures[key] = (member.name, *place)
            elif suffix == ".txt" or (suffix == ".json" and key not in texts):
                texts[key] = (place, suffix)
    return [(number, *picture, *texts.get(key, (None, ""))) for key, picture in pictures.items()]
