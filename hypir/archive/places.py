"""Folders on any filesystem that pyarrow or fsspec opens: listed, read, and written whole."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

OWN = ".hypir"
"""Folder in the target for the manifest and for files that are being written."""


class Found(NamedTuple):
    """A file below a place, or a folder that cannot be listed."""

    name: str
    """Path from the place, with forward slashes."""
    size: int
    mtime: float
    error: str = ""
    """Why it cannot be taken; empty if it can."""


@dataclass(frozen=True)
class Place:
    """A folder on a filesystem."""

    system: Any
    """pyarrow's FileSystem."""
    root: str
    """The folder's path there."""
    is_local: bool

    def path(self, name: str) -> str:
        """Where a file of this place lies on its filesystem."""
        return f"{self.root}/{name}" if self.root else name

    def read(self, name: str) -> bytes:
        """Raises OSError if the file cannot be read."""
        with self.system.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that under its name there is never a part of it.

        Raises:
            OSError: if it cannot be written; nothing is left then.
        """
        part = self.path(f"{OWN}/parts/{uuid.uuid4().hex}")
        try:
            for path in (part, self.path(name)):
                self.system.create_dir(str(PurePosixPath(path).parent), recursive=True)
            with self.system.open_output_stream(part) as stream:
                stream.write(content)
            self.system.move(part, self.path(name))
        except BaseException:
            with contextlib.suppress(OSError):
                self.system.delete_file(part)
            raise

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none."""
        (info,) = self.system.get_file_info([self.path(name)])
        return info.size if info.is_file else None

    def delete_folder(self, name: str) -> None:
        """Delete a folder with what is in it, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self.system.delete_dir(self.path(name))

    def set_time(self, name: str, mtime: float) -> None:
        """Give a file the time of its source, where the filesystem can."""
        if self.is_local:
            os.utime(self.path(name), (mtime, mtime))

    def walk(self, without: str = "") -> Iterator[Found]:
        """Every file, folder by folder, sorted; what begins with a dot is hidden and left out.

        Only one folder is in memory at a time.

        Args:
            without: path of a folder that is left out, on the same filesystem.
        """
        list_folder = _list_local if self.is_local else self._list
        waiting = [("", frozenset[str]())]
        while waiting:
            folder, above = waiting.pop()
            path = self.path(folder) if folder else self.root
            real = os.path.realpath(path) if self.is_local else path
            if real in above or real == without:  # a link back up, or the target
                continue
            try:
                files, folders = list_folder(path)
            except OSError as error:
                yield Found(folder or ".", 0, 0, f"the folder cannot be listed ({reason(error)})")
                continue
            prefix = f"{folder}/" if folder else ""
            for found in sorted(files):
                yield found._replace(name=prefix + found.name)
            waiting += [(prefix + n, above | {real}) for n in sorted(folders, reverse=True)]

    def _list(self, path: str) -> tuple[list[Found], list[str]]:
        from pyarrow.fs import FileSelector

        files, folders = [], []
        for info in self.system.get_file_info(FileSelector(path)):
            if info.base_name.startswith("."):
                continue
            if info.is_file:
                mtime = info.mtime.timestamp() if info.mtime is not None else 0.0
                files.append(Found(info.base_name, info.size, mtime))
            else:
                folders.append(info.base_name)
        return files, folders


def _list_local(path: str) -> tuple[list[Found], list[str]]:
    """With the system's own calls, which know names that are no Unicode."""
    files, folders = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                name = os.fsencode(entry.name).decode(errors="backslashreplace")
                files.append(Found(name, 0, 0, "its name is not Unicode; rename it"))
                continue
            try:
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    status = entry.stat()
                    files.append(Found(entry.name, status.st_size, status.st_mtime))
            except OSError as error:
                files.append(Found(entry.name, 0, 0, f"it cannot be opened ({reason(error)})"))
    return files, folders


def reason(error: OSError) -> str:
    """Why the system refused, without the error's own wrapping."""
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())[:200]


def open_place(place: str) -> Place:
    """A folder by its path or its address (s3://, gs://, file:, or any that fsspec knows).

    Raises:
        ValueError: if no library here opens such an address.
    """
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

    scheme = urlsplit(place).scheme
    if len(scheme) <= 1:  # none, or a drive
        return Place(LocalFileSystem(), Path(place).expanduser().resolve().as_posix(), True)
    try:
        system, root = FileSystem.from_uri(place)
        return Place(system, root.rstrip("/"), isinstance(system, LocalFileSystem))
    except (ArrowException, ValueError, OSError) as first:
        import fsspec

        try:
            other, root = fsspec.core.url_to_fs(place)
        except (ImportError, ValueError, OSError) as error:
            raise ValueError(f"{place} cannot be opened ({first}; {error})") from error
        return Place(PyFileSystem(FSSpecHandler(other)), root.rstrip("/"), False)
