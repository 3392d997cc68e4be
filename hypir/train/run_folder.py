"""The folder of a run: one run at a time, and the recipe that it was started with."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .recipe import Recipe, check_format

LOCK_FILE, RECIPE_FILE = "run.lock", "recipe.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the system ends the lock with the process, however it ends.

    Raises:
        ValueError: if another run trains there.
        OSError: if the folder cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--out must be a folder, got the file {str(folder)!r}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    with open(path, "a+", encoding="utf-8") as file:
        if not _take(file):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise ValueError(
                f"another run ({owner}) trains in {str(folder)!r}; wait for its end, or use "
                f"another --out"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def check_kept(recipe: Recipe) -> None:
    """Whether a run of another version lies in the recipe's folder (ValueError then)."""
    file = Path(recipe.out) / RECIPE_FILE
    if file.is_file():
        check_format(json.loads(file.read_text("utf-8")), recipe.out)


def keep_recipe(recipe: Recipe) -> None:
    """Write the recipe beside what it makes, whole or not at all."""
    file = Path(recipe.out) / RECIPE_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(recipe.to_dict(), indent=1) + "\n", encoding="utf-8")
    os.replace(partial, file)


def _take(file) -> bool:
    """Lock a file for this process alone; False if another has it.

    Locks of this kind are not inherited by the processes that read data.
    """
    try:
        import fcntl
    except ImportError:
        import msvcrt

        file.seek(2**20)  # beyond the text, which others may read
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):  # POSIX allows either
            return False
        raise
    return True
