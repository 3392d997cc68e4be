"""Starting a ComfyUI for the duration of a `with` block.

with started([python, "main.py", ...], base, folder) as server:
    server.run(prompt)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from .server import Server

GUARD = Path(__file__).with_name("guard.py")
NOT_THE_PACK = (".git", ".nox", "tests", "tools", "__pycache__")


def link(file: Path, place: Path) -> None:
    """Make `file` (or a folder) available at `place`, by a link where the system allows it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    file = file.resolve()
    if place.is_symlink():  # from an earlier run
        place.unlink()
    elif place.exists():
        return
    try:
        place.symlink_to(file, target_is_directory=file.is_dir())
    except OSError:  # Windows without permission to create links
        if file.is_dir():
            shutil.copytree(file, place, ignore=shutil.ignore_patterns(*NOT_THE_PACK))
        else:
            try:
                os.link(file, place)
            except OSError:
                shutil.copyfile(file, place)


def has_gpu() -> bool:
    """Whether torch sees a GPU."""
    import torch

    return torch.accelerator.is_available()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def started(
    command: Sequence[str], base: Path, folder: Path, *, echo: bool = False, guarded: bool = False
) -> Iterator[Server]:
    """Start a host, wait until it answers, and stop it at the end.

    Args:
        command: the host's python, main.py and arguments, without the port.
        base: folder that holds its input, output and temp.
        folder: folder that it runs in.
        echo: show the host's log instead of keeping it.
        guarded: end the host when this process ends, however it ends.

    Raises:
        HostError: if the host does not start; with the end of its log.
    """
    for name in ("input", "output", "temp"):
        (base / name).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        port = _free_port()
        words = [*command, "--port", str(port), "--disable-auto-launch"]
        words += ["--database-url", "sqlite:///:memory:"]
        # the host's default attention on a CPU takes more than twice as long
        words += [] if has_gpu() else ["--cpu", "--use-pytorch-cross-attention"]
        log = base / "log.txt"
        stream = stack.enter_context(log.open("wb"))
        output: IO[bytes] | None = None if echo else stream
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
        options: dict[str, Any] = {"stdout": output, "stderr": output, "cwd": folder}
        if guarded:
            words = [sys.executable, str(GUARD), *words]
            # a Ctrl-C in the terminal is for the archive, which then stops its hosts
            options |= {"stdin": subprocess.PIPE, "start_new_session": True}
        process = subprocess.Popen(words, env=environment, **options)
        server = Server(process, port, base, log)
        stack.callback(server.stop)
        server.wait_until_ready()
        yield server
