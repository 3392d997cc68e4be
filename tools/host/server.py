"""A ComfyUI with this pack that runs for the duration of a `with` block.

    with running(get_host(), models={"checkpoints": [file]}) as server:
        server.run(prompt)

The host gets its own base folder, temporary unless one is given. The models are linked into it, so
the user's files are not copied, listed or written.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hypir.archive.server import (
    REQUEST_SECONDS,
    HostError,
    Interrupted,
    Progress,
    Prompt,
    Server,
    Watch,
    wait_until,
)
from hypir.archive.start import link, started
from tools import ROOT
from tools.host.get_frontend import get_frontend

__all__ = [
    "PACK",
    "REQUEST_SECONDS",
    "HostError",
    "Interrupted",
    "Progress",
    "Prompt",
    "Server",
    "Watch",
    "link",
    "running",
    "wait_until",
]

PACK = "hypir"  # folder of the pack under custom_nodes


@contextlib.contextmanager
def running(
    host: Path,
    *,
    models: Mapping[str, Sequence[Path]] | None = None,
    base: Path | None = None,
    arguments: Sequence[str] = (),
    echo: bool = False,
    pack: Path = ROOT,
) -> Iterator[Server]:
    """Start a host with the pack, wait until it answers, and stop it at the end.

    Args:
        host: folder of a ComfyUI.
        models: files by the host's model folder (checkpoints, loras, vae, ...); in a temporary
            base a folder's combo lists exactly these.
        base: folder of the host's models, inputs and outputs; temporary if not given.
        arguments: further arguments for main.py.
        echo: show the host's log instead of keeping it.
        pack: folder of the pack.

    Raises:
        HostError: if the host does not start; with the end of its log.
    """
    with contextlib.ExitStack() as stack:
        if base is None:
            folder = tempfile.TemporaryDirectory(prefix="hypir-host-", ignore_cleanup_errors=True)
            base = Path(stack.enter_context(folder)).resolve()
        for name in ("custom_nodes", "models"):
            (base / name).mkdir(parents=True, exist_ok=True)
        link(pack, base / "custom_nodes" / PACK)
        for kind, files in (models or {}).items():
            for file in files:
                link(file, base / "models" / kind / file.name)
        command = [sys.executable, str(host / "main.py"), "--base-directory", str(base)]
        command += ["--disable-api-nodes", "--disable-all-custom-nodes"]
        command += ["--whitelist-custom-nodes", PACK, *arguments]
        page = get_frontend()
        command += [] if page is None else ["--front-end-root", str(page)]
        yield stack.enter_context(started(command, base, host, echo=echo))
