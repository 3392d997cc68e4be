"""Webdataset shards: .tar files of `key.jpg` with `key.txt` or `key.json`, read in place.

A shard that is damaged or cut off gives what lies whole before the damage; shards that give nothing
are named and left out.
"""

import json
import logging
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .pictures import SUFFIXES, read_picture
from .tables import CAPTION_COLUMNS
from .texts import as_caption, decode_text, readable

log = logging.getLogger(__name__)

COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
MAGICS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files."""
BLOCK = 512
"""Bytes of a header; one of zeros ends a .tar (POSIX.1-1988, ustar)."""
RANGE = re.compile(r"(\d+)\.\.(\d+)")


class Place(NamedTuple):
    """Where a member's content lies in its shard."""

    member: str
    start: int
    size: int


class Entry(NamedTuple):
    """A picture of a shard."""

    shard: int
    picture: Place
    text: Place | None


class ShardSource:
    """Pictures of shards with their captions."""

    def __init__(self, shards: Sequence[Path], name: str):
        """Raises ValueError if no shard holds a picture; shards without one are logged."""
        self.name = name
        self._shards = list(shards)
        self._entries: list[Entry] = []
        empty = []
        for number, shard in enumerate(self._shards):
            try:
                found = _index_shard(number, shard)
            except (OSError, ValueError, tarfile.TarError) as error:
                empty.append(f"{shard}: {error}")
                continue
            self._entries += found
            if not found:
                empty.append(f"{shard}: there is no picture in it")
        if not self._entries:
            raise ValueError(
                f"there is no picture in the {len(self._shards)} shards of {name!r}; {empty[0]}"
            )
        if empty:
            log.warning(
                "%d of %d shards are left out, first %s", len(empty), len(self._shards), empty[0]
            )

    def __len__(self) -> int:
        return len(self._entries)

    def label(self, index: int) -> str:
        """Shard and member."""
        entry = self._entries[index]
        return f"{self._shards[entry.shard]}:{entry.picture.member}"

    def read(self, index: int) -> tuple[np.ndarray, str]:
        """Picture and caption, read from their places in the shard."""
        shard, place, _ = self._entries[index]
        with open(self._shards[shard], "rb") as file:
            file.seek(place.start)
            picture = read_picture(file.read(place.size), self.label(index))
        return picture, self._caption(self._entries[index])

    def captions(self) -> Iterator[str]:
        """Texts of the shards."""
        return readable(self._caption, self._entries)

    def _caption(self, entry: Entry) -> str:
        if entry.text is None:
            return ""
        with open(self._shards[entry.shard], "rb") as file:
            file.seek(entry.text.start)
            content = file.read(entry.text.size)
        name = f"{self._shards[entry.shard]}:{entry.text.member}"
        caption = decode_text(content, name)
        if entry.text.member.lower().endswith(".json"):
            caption = _caption_in_json(caption, name)
        return caption.strip()


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


def _index_shard(number: int, shard: Path) -> list[Entry]:
    with open(shard, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(6)
    if not size:
        raise ValueError("it is empty (0 bytes)")
    for magic, kind in MAGICS.items():
        if start.startswith(magic):
            raise ValueError(f"it is compressed ({kind}) and cannot be read in place; unpack it")
    members, damage = [], ""
    try:
        # Without compression: pictures are read from their places in the file.
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse():
                    members.append(Place(member.name, member.offset_data, member.size))
            # tarfile takes a damaged header for the end.
            archive.fileobj.seek(archive.offset)
            end = archive.fileobj.read(BLOCK)
            damage = "it has no end" if not end else "a damaged header" if any(end) else ""
    except (tarfile.TarError, EOFError) as error:
        if not members:
            raise
        damage = str(error)
    whole = [place for place in members if place.start + place.size <= size]
    entries = [Entry(number, *pair) for pair in _pairs(whole)]
    if damage or len(whole) < len(members):
        log.warning(
            "%s is cut off or damaged (%s); its %d whole pictures are used",
            *(shard, damage or "unexpected end", len(entries)),
        )
    return entries


def _pairs(members: list[Place]) -> list[tuple[Place, Place | None]]:
    """Every picture with its caption.

    A key ends at the first dot of the name. What has more dots (`key.mask.png`) belongs to the
    picture `key.png`; where there is none, as with `img.001.jpg`, it is a picture itself.
    """
    exact, other, texts = {}, [], {}
    for place in members:
        folder, _, leaf = place.member.rpartition("/")
        if leaf.startswith(".") or "__MACOSX" in folder.split("/"):
            continue  # hidden: macOS packs `._name` beside a file
        key, _, rest = leaf.partition(".")
        key = f"{folder}/{key}"
        suffix = Path(leaf).suffix.lower()
        stem = f"{folder}/{Path(leaf).stem}"
        if suffix in SUFFIXES:
            if f".{rest.lower()}" == suffix:
                exact.setdefault(key, place)
            else:
                other.append((key, stem, place))
        elif suffix == ".txt" or (suffix == ".json" and stem not in texts):
            texts[stem] = place
    pairs = [(place, key, key) for key, place in exact.items()]
    pairs += [(place, key, stem) for key, stem, place in other if key not in exact]
    pairs.sort(key=lambda pair: pair[0].start)
    return [(place, texts.get(stem) or texts.get(key)) for place, key, stem in pairs]
