"""Webdataset shards: .tar files of `key.jpg` with `key.txt` or `key.json`, read in place.

Their indices lie on disk and are mapped into memory, however many pictures there are.

A shard that is damaged or cut off gives what lies whole before the damage; shards that give nothing
are named and left out.
"""

import json
import logging
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .pictures import read_picture
from .shard_index import index_of, member_at
from .tables import CAPTION_COLUMNS
from .texts import as_caption, decode_text, readable

log = logging.getLogger(__name__)

COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
RANGE = re.compile(r"(\d+)\.\.(\d+)")


class ShardSource:
    """Pictures of shards with their captions."""

    def __init__(self, shards: Sequence[Path], name: str):
        """Raises ValueError if no shard holds a picture; shards without one are logged."""
        self.name = name
        self._shards, indices, empty = [], [], []
        for shard in shards:
            try:
                found = index_of(shard)
            except (OSError, ValueError, tarfile.TarError) as error:
                empty.append(f"{shard}: {error}")
                continue
            if len(found):
                self._shards.append(shard)
                indices.append(found)
            else:
                empty.append(f"{shard}: there is no picture in it")
        if not indices:
            raise ValueError(
                f"there is no picture in the {len(shards)} shards of {name!r}; {empty[0]}"
            )
        if empty:
            log.warning("%d of %d shards are left out, first %s", len(empty), len(shards), empty[0])
        self._indices = indices
        self._ends = np.cumsum([len(found) for found in indices])

    def __getstate__(self) -> dict[str, Any]:
        # A process that is not forked maps the indices itself; they would be sent in full.
        return {"name": self.name, "_shards": self._shards, "_ends": self._ends}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _indices=[index_of(shard) for shard in state["_shards"]])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def label(self, index: int) -> str:
        """Shard and member."""
        shard, entry = self._entry(index)
        return f"{shard}:{member_at(shard, int(entry['start']))}"

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """Picture and caption, read from their places in the shard."""
        shard, entry = self._entry(index)
        content = _content(shard, entry["start"], entry["size"])
        return read_picture(content, self.label(index)), _caption(shard, entry)

    def captions(self) -> Iterator[str]:
        """Texts of the shards."""
        entries = (self._entry(index) for index in range(len(self)))
        return readable(lambda place: _caption(*place), entries)

    def _entry(self, index: int) -> tuple[Path, np.void]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        own = index - (int(self._ends[number - 1]) if number else 0)
        return self._shards[number], self._indices[number][own]


def _content(shard: Path, start: int, size: int) -> bytes:
    with open(shard, "rb") as file:
        file.seek(int(start))
        return file.read(int(size))


def _caption(shard: Path, entry: np.void) -> str:
    if not entry["text_start"]:
        return ""
    content = _content(shard, entry["text_start"], entry["text_size"])
    name = f"{shard}:{member_at(shard, int(entry['text_start']))}"
    caption = decode_text(content, name)
    return (_caption_in_json(caption, name) if entry["json"] else caption).strip()


def is_compressed(file: Path) -> bool:
    """Whether a name is that of a compressed .tar."""
    return COMPRESSED.search(file.name) is not None


def expand_braces(pattern: str) -> list[str]:
    """Names that a pattern stands for: `{000..010}` counts, `{a,b}` lists, as in a shell."""
    for found in re.finditer(r"\{([^{}]*)\}", pattern):
        head, body, tail = pattern[: found.start()], found[1], pattern[found.end() :]
        if counted := RANGE.fullmatch(body):
            first, last = counted.groups()
            width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
            step = 1 if int(first) <= int(last) else -1
            numbers = range(int(first), int(last) + step, step)
            parts = [str(number).zfill(width) for number in numbers]
        elif "," in body:
            parts = body.split(",")
        else:
            continue
        return [name for part in parts for name in expand_braces(f"{head}{part}{tail}")]
    return [pattern]


def _caption_in_json(text: str, name: str) -> str:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} must hold names and values, got {type(found).__name__}")
    return as_caption(next((found[c] for c in CAPTION_COLUMNS if found.get(c)), None), name)
