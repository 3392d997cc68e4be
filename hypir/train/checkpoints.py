"""Checkpoints: written atomically, the last few kept, damaged ones skipped.

One file per step, `step-00000500.pt`, with its SHA-256 next to it. The file appears under its name
only when it is complete and on disk; a file with a wrong digest is not read.
"""

import hashlib
import logging
import os
import pickle
import re
from pathlib import Path
from typing import Annotated, Literal

import torch

from .bounds import Bounds, settings

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8})\.pt")


@settings
class Saving:
    """Checkpoints and exported files."""

    export: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of exported files."""
    checkpoint_every: Annotated[int, Bounds(1, 10**9, "steps")] = 500
    """Steps between checkpoints; the exported files are written at the same time."""
    checkpoint_minutes: Annotated[float, Bounds(0, 10**6, "minutes")] = 30.0
    """Minutes after which a checkpoint is written at the end of a step, 0 = by steps only."""
    keep: Annotated[int, Bounds(1, 10**6, "checkpoints")] = 3
    """Number of checkpoints kept per stage."""
    accept_changes: bool = False
    """Go on with a run although rates, data or other settings are not those it was made with; the
    log names them."""


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self._keep = folder, keep

    def steps(self) -> list[int]:
        """Steps with a file, in order."""
        names = [_NAME.fullmatch(p.name) for p in self.folder.glob("step-*.pt")]
        return sorted(int(match[1]) for match in names if match)

    def save(self, step: int, state: dict) -> Path:
        """Write a checkpoint and delete the oldest beyond `keep`.

        Raises:
            OSError: if it cannot be written; existing checkpoints are kept.
        """
        path = self._path(step)
        partial = path.with_suffix(".partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            digest = _digest(partial)
            path.with_suffix(".sha256").write_text(digest)
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
            last = (
                f"the last one is of step {self.steps()[-1]}" if self.steps() else "there is none"
            )
            raise OSError(
                f"the checkpoint of step {step} cannot be written to {str(self.folder)!r} "
                f"({error}); {last}: free some disk space and run the same command again to "
                "continue from there"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        for old in self.steps()[: -self._keep]:
            self._path(old).unlink()
            self._path(old).with_suffix(".sha256").unlink(missing_ok=True)
        return path

    def load(self) -> tuple[int, dict] | None:
        """Step and state of the newest intact checkpoint; None if there is none.

        Raises:
            ValueError: if there are checkpoints, but none is intact.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self._path(step)
            digest = path.with_suffix(".sha256")
            if digest.is_file() and digest.read_text().strip() == _digest(path):
                return step, torch.load(path, map_location="cpu", weights_only=True)
            log.warning("checkpoint %s is damaged; using the previous one", path)
        if steps:
            raise ValueError(
                f"all {len(steps)} checkpoints in {str(self.folder)!r} are damaged; restore one "
                "from a backup, or delete the folder to start again"
            )
        return None

    def about(self) -> tuple[int, dict] | None:
        """Step and recipe of the newest checkpoint that can be opened, without reading its weights.

        None if there is none. Whether it is whole only `load` tells.
        """
        for step in reversed(self.steps()):
            try:
                state = torch.load(self._path(step), "cpu", weights_only=True, mmap=True)
                return step, state["recipe"]
            except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError):
                continue
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
