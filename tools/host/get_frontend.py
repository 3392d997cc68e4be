"""The page that the host serves: its own, or a version that COMFYUI_FRONTEND names."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tools.host.get_host import HOSTS

PACKAGE = "comfyui-frontend-package"
NEWEST = "newest"


def get_frontend() -> Path | None:
    """Folder of the page that COMFYUI_FRONTEND names, downloaded on first use; None if unset.

    The variable holds a version of the package, or "newest". Nothing is installed: the host is
    told where the files are.
    """
    version = os.environ.get("COMFYUI_FRONTEND", "")
    if not version:
        return None
    folder = HOSTS / f"frontend-{version}"
    found = _static(folder)
    if found is None or version == NEWEST:
        with tempfile.TemporaryDirectory() as download:
            wanted = PACKAGE if version == NEWEST else f"{PACKAGE}=={version}"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*command, "--dest", download, wanted], check=True)
            (wheel,) = Path(download).glob("*.whl")
            folder = HOSTS / f"frontend-{wheel.name.split('-')[1]}"
            if _static(folder) is None:
                with zipfile.ZipFile(wheel) as file:
                    file.extractall(folder)
        found = _static(folder)
    return found


def _static(folder: Path) -> Path | None:
    static = folder / "comfyui_frontend_package" / "static"
    return static if (static / "index.html").is_file() else None
