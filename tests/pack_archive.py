"""The archive that `comfy node pack` would make of the working tree's files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def committed_tree(folder: Path) -> Path:
    """The files that a commit of this moment would hold, in a repository of their own."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for file in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        if (ROOT / file).is_file():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, folder / file)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    return folder


def comfy(folder: Path, home: Path, *arguments: str) -> str:
    """What comfy-cli says, run as its user would; it keeps its settings in a home of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "comfy_cli", "--skip-prompt", *arguments],
        cwd=folder,
        env=os.environ | {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def packed(folder: Path, home: Path) -> Path:
    """The archive of a tree."""
    comfy(folder, home, "node", "pack")
    return folder / "node.zip"
