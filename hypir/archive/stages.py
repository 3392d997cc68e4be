"""What Ray Data runs for every photo: read, restore, write. Each may run on another machine.

A row carries one photo. A stage that cannot do its part writes the reason into the row's `error`,
and the stages after it pass the row on: no photo stops another.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from . import comfyui, photo
from .places import Place, open_place, reason
from .server import HostError, Server
from .workflow import Recipe, build_prompt, for_photo

Row = dict[str, Any]

ATTEMPTS = 2
"""Hosts that a photo may end before it is given up."""


def _in_a_sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"it cannot be read or written ({reason(error)})"
    return " ".join(str(error).split()) or type(error).__name__


class Read:
    """The photo's colours as a PNG for the host, and what else the result needs of it."""

    def __init__(self, source: str, target: str) -> None:
        self.source, self.target = open_place(source), open_place(target)

    def __call__(self, row: Row) -> Row:
        """Adds png, photo, sha256, error."""
        started = time.time()
        row = row | {"png": b"", "sha256": "", "error": "", "unchanged": False, "fatal": ""}
        carried = photo.Photo((0, 0))
        try:
            content = self.source.read(row["source"])
            digest = hashlib.sha256(content).hexdigest()
            row["unchanged"] = digest == row["known_sha256"] and bool(
                self.target.size(row["target"])
            )
            row["sha256"] = digest
            if not row["unchanged"]:
                row["png"], carried = photo.read(content, row["source"])
        except Exception as error:
            row["error"] = _in_a_sentence(error)
        row |= {f"photo_{name}": value for name, value in vars(carried).items()}
        row["photo_size"] = list(carried.size)
        return row | {"read_start": started, "read_end": time.time()}


class Restore:
    """A host that restores one photo after another; started again when a photo ends it."""

    def __init__(self, recipe: Recipe, folder: str | None, arguments: tuple[str, ...]) -> None:
        self.recipe, self.folder, self.arguments = recipe, folder, arguments
        self.stack = contextlib.ExitStack()
        self.server: Server | None = None
        self.fatal = ""
        self.name = f"{socket.gethostname()}/{os.getpid()}"
        self.starts: list[float] = [time.time()]
        try:
            self._start()
        except (HostError, ValueError, OSError, ImportError) as error:
            self.fatal = str(error)  # said once, by the driver
        self.starts.append(time.time())

    def _start(self) -> None:
        self.stop()
        place = comfyui.find_comfyui(self.folder)
        models = {k: [Path(f) for f in files] for k, files in self.recipe.models.items()}
        running = comfyui.running(place, models, self.arguments)
        self.server = self.stack.enter_context(running)
        known = self.server.object_info()
        self.prompt = build_prompt(self.recipe, known)

    def stop(self) -> None:
        """End the host."""
        self.server = None
        with contextlib.suppress(HostError, OSError):
            self.stack.close()

    def __call__(self, row: Row) -> Row:
        """Replaces png by the result; adds seconds, host."""
        started = time.time()
        row = row | {"seconds": 0.0, "host": self.name, "fatal": self.fatal}
        row |= {"host_start": self.starts[0], "host_ready": self.starts[1]}
        if not row["error"] and not self.fatal and not row["unchanged"]:
            try:
                row["png"], row["seconds"] = self._restore(row["png"], row["photo_deep"])
            except (HostError, ValueError, OSError) as error:
                row["error"] = _in_a_sentence(error)
        if row["error"]:
            row["png"] = b""
        return row | {"restore_start": started, "restore_end": time.time()}

    def _restore(self, png: bytes, deep: bool) -> tuple[bytes, float]:
        for _ in range(ATTEMPTS):  # the second time in a new host
            if self.server is None:
                self._start()
            assert self.server is not None
            try:
                return self._run(self.server, png, deep)
            except (HostError, OSError) as error:
                # one that still answers has refused the photo, and so would any other
                if self.server.is_well():
                    raise
                last = error
                self.stop()
        raise HostError(
            f"it ended its ComfyUI {ATTEMPTS} times, for example by using up the memory; "
            f"restore it alone with smaller tiles, or leave it out ({_last_line(last)})"
        )

    def _run(self, server: Server, png: bytes, deep: bool) -> tuple[bytes, float]:
        name = f"{uuid.uuid4().hex}.png"  # a name of its own, as the host keeps results by name
        source = server.base / "input" / name
        source.write_bytes(png)
        saved: list[Path] = []
        try:
            prompt_id, saved = server.run_named(for_photo(self.prompt, name, name[:8], deep))
            if len(saved) != 1:
                raise ValueError(
                    f"the workflow must make one picture of a photo, but made {len(saved)}; use "
                    "one that saves a single picture"
                )
            return saved[0].read_bytes(), server.seconds(prompt_id)
        finally:
            for file in (source, *saved):
                file.unlink(missing_ok=True)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


class Write:
    """The result in the target, under its own name once it is whole."""

    def __init__(self, target: str, asked: str, quality: int | None) -> None:
        self.target: Place = open_place(target)
        self.asked, self.quality = asked, quality

    REPORT: ClassVar = ("id", "sha256", "error", "unchanged", "seconds", "host", "fatal")
    TIMES: ClassVar = ("host_start", "host_ready", "read_start", "read_end", "restore_start")
    TIMES += ("restore_end",)

    def __call__(self, row: Row) -> Row:
        """A row that the driver can note: no pictures in it."""
        started = time.time()
        report = {name: row[name] for name in (*self.REPORT, *self.TIMES)}
        report |= {"width": 0, "height": 0, "bytes": 0}
        if not (row["error"] or row["fatal"] or row["unchanged"]):
            try:
                report |= self._write(row)
            except Exception as error:
                report["error"] = _in_a_sentence(error)
        return report | {"write_start": started, "write_end": time.time()}

    def _write(self, row: Mapping[str, Any]) -> Row:
        carried = {n.removeprefix("photo_"): v for n, v in row.items() if n.startswith("photo_")}
        carried["size"] = tuple(carried["size"])
        _, format_ = photo.format_of(row["source"], self.asked)
        content, (width, height) = photo.write(
            row["png"], photo.Photo(**carried), format_, self.quality
        )
        self.target.write(row["target"], content)
        self.target.set_time(row["target"], row["mtime"])
        return {"width": width, "height": height, "bytes": len(content)}
