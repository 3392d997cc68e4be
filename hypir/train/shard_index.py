"""Where the pictures and texts of a .tar lie: read from its headers once, then kept beside it.

`.NAME.SIZE-TIME.index.npy` holds 25 bytes per picture and is mapped into memory, which all
processes share; a shard that changes gets a new one. Beside shards that cannot be written to, none
is kept.
"""

import logging
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .pictures import SUFFIXES

log = logging.getLogger(__name__)

MAGICS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files."""
BLOCK = 512
"""Bytes of a header; one of zeros ends a .tar (POSIX.1-1988, ustar)."""
ENTRY = np.dtype(
    [("start", "<u8"), ("size", "<u4"), ("text_start", "<u8"), ("text_size", "<u4"), ("json", "?")]
)
"""A picture and its text; without one, text_start is 0."""


class Place(NamedTuple):
    """Where a member's content lies in its shard."""

    member: str
    start: int
    size: int


def index_of(shard: Path) -> np.ndarray:
    """Entries of the pictures of a shard, of dtype ENTRY.

    Raises:
        OSError, ValueError, tarfile.TarError: if the shard cannot be read in place.
    """
    state = shard.stat()
    kept = shard.with_name(f".{shard.name}.{state.st_size:x}-{state.st_mtime_ns:x}.index.npy")
    if kept.is_file():
        return np.load(kept, mmap_mode="r") if kept.stat().st_size > BLOCK else np.load(kept)
    pairs, damage = _read_headers(shard)
    found = np.zeros(len(pairs), ENTRY)
    for i, (picture, text) in enumerate(pairs):
        found[i] = (picture.start, picture.size, 0, 0, False)
        if text is not None:
            json = text.member.lower().endswith(".json")
            found[i] = (picture.start, picture.size, text.start, text.size, json)
    if damage:  # told at every start
        log.warning(
            "%s is cut off or damaged (%s); its %d whole pictures are used",
            *(shard, damage, len(found)),
        )
    else:
        _keep(found, kept, shard)
    return found


def member_at(shard: Path, start: int) -> str:
    """Name of the member whose content begins at `start`, for messages."""
    with open(shard, "rb") as file:
        file.seek(start - BLOCK)
        header = file.read(BLOCK)
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
    except tarfile.TarError:
        return f"byte {start}"


def _keep(found: np.ndarray, kept: Path, shard: Path) -> None:
    partial = kept.with_suffix(f".{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            np.save(file, found)
        for old in shard.parent.glob(f".{shard.name}.*.index.npy"):
            old.unlink(missing_ok=True)
        os.replace(partial, kept)
    except OSError:
        partial.unlink(missing_ok=True)  # without it the next start reads the headers again


def _read_headers(shard: Path) -> tuple[list[tuple[Place, Place | None]], str]:
    """Pictures with their texts, and what is wrong with the shard, "" if nothing."""
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
    if not damage and len(whole) < len(members):
        damage = "unexpected end"
    return _pairs(whole), damage


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
