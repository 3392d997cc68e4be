"""Finding a ComfyUI on this machine, and starting it for the archive."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .server import Server
from .start import link, started

PACK_ROOT = Path(__file__).resolve().parents[2]
PACK = "hypir"  # folder of the pack under custom_nodes
ABSENT = (
    "no ComfyUI was found; set COMFYUI_PATH to the folder of yours, with this pack among its "
    "custom nodes, or run `nox -s env` in a clone of this repository to download the pinned one"
)


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI on this machine."""

    folder: Path
    """The folder of main.py."""
    own: bool
    """Whether it is the user's, with models and custom nodes, or a bare copy of this project's."""

    @property
    def python(self) -> str:
        """The interpreter that it was installed with, or this one if it has none of its own."""
        places = ("venv/bin/python", ".venv/bin/python", "venv/Scripts/python.exe")
        places += (".venv/Scripts/python.exe", "../python_embeded/python.exe")
        for place in places:
            if self.own and (self.folder / place).is_file():
                return str(self.folder / place)
        return sys.executable

    @property
    def has_the_pack(self) -> bool:
        """Whether this pack is among its custom nodes."""
        files = (self.folder / "custom_nodes").glob("*/pyproject.toml")
        texts = (file.read_text(encoding="utf-8", errors="replace") for file in files)
        return any('name = "hypir-nodes"' in text for text in texts)


def find_comfyui(given: str | None = None) -> ComfyUI:
    """The ComfyUI of this machine.

    Args:
        given: the folder; else COMFYUI_PATH counts, then the ComfyUI that this pack is installed
            in, then the pinned copy in a clone of the repository.

    Raises:
        ValueError: if there is none, or the folder named is not one.
    """
    named = os.environ.get("COMFYUI_PATH") or given
    if named:
        folder = Path(named).expanduser().resolve()
        if not (folder / "main.py").is_file():
            raise ValueError(
                f"{folder} must be the folder of a ComfyUI, but has no main.py; correct "
                "COMFYUI_PATH"
            )
        return ComfyUI(folder, own=PACK_ROOT / ".nox" not in folder.parents)
    # not resolved: a link under custom_nodes is a usual way to install a pack from a clone
    around = Path(os.path.abspath(__file__)).parents[4]
    if (around / "main.py").is_file() and (around / "custom_nodes").is_dir():
        return ComfyUI(around, own=True)
    copies = sorted((PACK_ROOT / ".nox" / "host").glob("*/ComfyUI"), key=_version)
    if copies:
        return ComfyUI(copies[-1].resolve(), own=False)
    raise ValueError(ABSENT)


def _version(copy: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in copy.parent.name.split(".") if part.isdigit())


@contextlib.contextmanager
def running(
    comfyui: ComfyUI, models: Mapping[str, Sequence[Path]], arguments: Sequence[str] = ()
) -> Iterator[Server]:
    """A started host with this pack; its inputs and outputs lie in a temporary folder.

    Args:
        comfyui: the one to start.
        models: further files by the host's model folder (checkpoints, loras, ...).
        arguments: further arguments for main.py.

    Raises:
        HostError: if it does not start; with the end of its log.
    """
    with contextlib.ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="hypir-archive-", ignore_cleanup_errors=True)
        base = Path(stack.enter_context(folder)).resolve()
        extra = {"models": {}}
        for kind, files in models.items():
            extra["models"][kind] = str(base / "models" / kind)
            for file in files:
                link(file, base / "models" / kind / file.name)
        if not comfyui.own or not comfyui.has_the_pack:
            if not (PACK_ROOT / "nodes").is_dir():
                raise ValueError(
                    f"this pack must be among the custom nodes of {comfyui.folder}; install it "
                    "there, for example with ComfyUI Manager"
                )
            link(PACK_ROOT, base / "custom_nodes" / PACK)
            extra["models"]["custom_nodes"] = str(base / "custom_nodes")
        command = [comfyui.python, str(comfyui.folder / "main.py"), *arguments]
        if comfyui.own:
            (base / "user").mkdir()
            for name in ("input", "output", "temp", "user"):
                command += [f"--{name}-directory", str(base / name)]
            places = base / "places.yaml"  # JSON is YAML
            places.write_text(json.dumps(extra), encoding="utf-8")
            command += ["--extra-model-paths-config", str(places)]
        else:
            command += ["--base-directory", str(base), "--disable-api-nodes"]
            command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK]
        yield stack.enter_context(started(command, base, comfyui.folder, guarded=True))
