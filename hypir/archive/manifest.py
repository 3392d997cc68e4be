"""What is known of every photo, in one SQLite file with one writer.

A row goes from `todo` to `done` or `failed`; a photo that is no longer in the source is `gone`. The
file is read with any SQLite tool: SELECT source, state, error FROM photos.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SCHEMA = """
CREATE TABLE IF NOT EXISTS photos (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL UNIQUE,
    target TEXT NOT NULL COLLATE NOCASE UNIQUE,
    size INTEGER NOT NULL,
    mtime REAL NOT NULL,
    sha256 TEXT NOT NULL DEFAULT '',
    recipe TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL CHECK (state IN ('todo', 'done', 'failed', 'gone')),
    seconds REAL NOT NULL DEFAULT 0,
    width INTEGER NOT NULL DEFAULT 0,
    height INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    seen INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS photos_by_state ON photos (state, size);
CREATE TABLE IF NOT EXISTS weights (
    path TEXT PRIMARY KEY, size INTEGER, mtime REAL, sha256 TEXT
);
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, started REAL NOT NULL, recipe TEXT NOT NULL
);
"""


class Task(NamedTuple):
    """A photo to restore."""

    id: int
    source: str
    target: str
    mtime: float
    sha256: str
    """Of the photo when it was last restored by the same recipe; empty if it was not."""


class Result(NamedTuple):
    """What became of a photo."""

    id: int
    sha256: str = ""
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    bytes: int = 0
    error: str = ""


def digest_of(file: Path) -> str:
    """The sha256 of a file, which may be larger than memory."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(2**22):
            digest.update(part)
    return digest.hexdigest()


class Manifest:
    """The open file; a second one waits for nobody and is refused."""

    def __init__(self, file: Path) -> None:
        """Open or create it.

        Raises:
            ValueError: if another run has it open, or it is not a manifest.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        self.database = sqlite3.connect(file, timeout=1, isolation_level=None)
        try:
            self.database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.database.execute("BEGIN IMMEDIATE")
            self.database.execute("COMMIT")
            self.database.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            self.database.close()
            if "locked" in str(error):
                raise ValueError(
                    f"another archive is writing to the same target (it holds {file}); wait for "
                    "its end, or stop it"
                ) from error
            raise ValueError(f"{file} must be a manifest that can be written ({error})") from error

    def close(self) -> None:
        """End the exclusive use."""
        self.database.close()

    # ------------------------------------------------------------------------------- listing

    def begin(self, recipe: str, now: float) -> int:
        """Note a new run; its number is what `add` marks photos with."""
        row = self.database.execute(
            "INSERT INTO runs (started, recipe) VALUES (?, ?)", (now, recipe)
        )
        self.database.execute("BEGIN")  # one transaction for the whole listing
        return int(row.lastrowid or 0)

    def add(self, run: int, source: str, suffix: str, size: int, mtime: float, recipe: str) -> None:
        """A listed photo: to do, unless it was done from the same file by the same recipe."""
        known = self.database.execute(
            "SELECT id, size, mtime, recipe, state, target FROM photos WHERE source = ?", (source,)
        ).fetchone()
        if known is None:
            self.database.execute(
                "INSERT INTO photos (source, target, size, mtime, state, seen) "
                "VALUES (?, ?, ?, ?, 'todo', ?)",
                (source, self._free_target(source, suffix), size, mtime, run),
            )
            return
        id_, *before, state, target = known
        if before == [size, mtime, recipe] and state == "done":
            self.database.execute("UPDATE photos SET seen = ? WHERE id = ?", (run, id_))
            return
        if PurePosixPath(target).suffix != suffix:  # another format is asked for
            target = self._free_target(source, suffix)
        self.database.execute(
            "UPDATE photos SET state = 'todo', size = ?, mtime = ?, seen = ?, target = ?, "
            "sha256 = CASE WHEN recipe = ? AND state = 'done' AND target = ? THEN sha256 ELSE '' "
            "END WHERE id = ?",
            (size, mtime, run, target, recipe, target, id_),
        )

    def _free_target(self, source: str, suffix: str) -> str:
        """The source's name with the suffix; with both suffixes if another photo has that."""
        path = PurePosixPath(source)
        names = [path.with_suffix(suffix).as_posix(), f"{path.as_posix()}{suffix}"]
        names += [f"{path.with_suffix('').as_posix()} ({n}){suffix}" for n in range(2, 1000)]
        for name in names:
            taken = self.database.execute(
                "SELECT 1 FROM photos WHERE target = ? AND source != ?", (name, source)
            )
            if taken.fetchone() is None:
                return name
        raise ValueError(f"a thousand photos would be written as {names[0]}; give them other names")

    def add_failure(self, run: int, source: str, error: str) -> None:
        """Something listed that cannot be taken."""
        self.database.execute(
            "INSERT INTO photos (source, target, size, mtime, state, error, seen) "
            "VALUES (?, ?, 0, 0, 'failed', ?, ?) ON CONFLICT (source) DO UPDATE SET "
            "state = 'failed', error = excluded.error, seen = excluded.seen",
            (source, f"\0{source}", error, run),
        )

    def done(self) -> Iterator[tuple[int, str, int]]:
        """Id, target and bytes of every photo that is done."""
        yield from self.database.execute(
            "SELECT id, target, bytes FROM photos WHERE state = 'done'"
        )

    def lost(self, ids: list[int]) -> None:
        """Results that are no longer there are to be made again."""
        self.database.executemany(
            "UPDATE photos SET state = 'todo', sha256 = '' WHERE id = ?", ((id_,) for id_ in ids)
        )

    def listed(self, run: int) -> None:
        """The listing is complete: what it lacks is gone."""
        self.database.execute("UPDATE photos SET state = 'gone' WHERE seen != ?", (run,))
        self.database.execute("COMMIT")

    # ------------------------------------------------------------------------------- working

    def tasks(self) -> Iterator[Task]:
        """What is to do, the largest files first, so that no long one is left for the end."""
        yield from map(
            Task._make,
            self.database.execute(
                "SELECT id, source, target, mtime, sha256 FROM photos WHERE state = 'todo' "
                "ORDER BY size DESC, id"
            ),
        )

    def finish(self, result: Result, recipe: str) -> None:
        """Note what became of a photo."""
        self.database.execute(
            "UPDATE photos SET state = ?, sha256 = ?, recipe = ?, seconds = ?, width = ?, "
            "height = ?, bytes = ?, error = ? WHERE id = ?",
            (
                "failed" if result.error else "done",
                result.sha256,
                recipe,
                *(result.seconds, result.width, result.height, result.bytes),
                result.error,
                result.id,
            ),
        )

    def unchanged(self, id_: int) -> None:
        """A photo whose file was touched, with the content that was restored before."""
        self.database.execute("UPDATE photos SET state = 'done', error = '' WHERE id = ?", (id_,))

    def fail_the_rest(self, error: str) -> None:
        """What is still to do after all work had no result."""
        self.database.execute(
            "UPDATE photos SET state = 'failed', error = ? WHERE state = 'todo'", (error,)
        )

    # ------------------------------------------------------------------------------- reading

    def counts(self) -> dict[str, int]:
        """Photos by state."""
        return dict(self.database.execute("SELECT state, COUNT(*) FROM photos GROUP BY state"))

    def failures(self) -> Iterator[tuple[str, str]]:
        """Source and error of each failed photo."""
        yield from self.database.execute(
            "SELECT source, error FROM photos WHERE state = 'failed' ORDER BY source"
        )

    def sha256(self, file: Path) -> str:
        """Digest of a weight file, computed once for its size and time."""
        status = file.stat()
        key = (str(file), status.st_size, status.st_mtime)
        known = self.database.execute(
            "SELECT sha256 FROM weights WHERE path = ? AND size = ? AND mtime = ?", key
        ).fetchone()
        if known is not None:
            return known[0]
        digest = digest_of(file)
        self.database.execute("REPLACE INTO weights VALUES (?, ?, ?, ?)", (*key, digest))
        return digest
