"""Open the host's page with this pack: `nox -s ui`. Ctrl-C ends it.

Files saved there stay in .nox/ui; put weights into its models folder.
"""

from __future__ import annotations

import contextlib
import shutil
import sys

from tools import ROOT
from tools.command_line import run
from tools.host.get_host import get_host
from tools.host.server import running
from tools.workflows.parts import PHOTO

BASE = ROOT / ".nox" / "ui"
HOW = """
Open {url} - Ctrl-C ends it.
Templates > hypir > START_here runs immediately, with the small model of the pack.
For real weights: {models}/checkpoints and {models}/loras.
"""


def ui() -> None:
    host = get_host()
    inputs = BASE / "input"
    inputs.mkdir(parents=True, exist_ok=True)
    shutil.copy(host / "input" / PHOTO, inputs)  # as in every ComfyUI installation
    with running(host, base=BASE, echo=True) as server:
        sys.stdout.write(HOW.format(url=server.url, models=BASE / "models"))
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            server.process.wait()


if __name__ == "__main__":
    run(ui)
