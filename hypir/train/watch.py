"""What a run tells: a progress bar, the log (log.py), tensorboard, validation with pictures."""

import logging
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .log import CSV_FILE, append_log
from .loop import Stage
from .perceptual import Lpips, lpips_is_at_hand
from .recipe import Recipe
from .validation import held_out, sheet, validate

log = logging.getLogger(__name__)


class Watch:
    """See loop.Watcher. Values are written by the main process only."""

    def __init__(self, recipe: Recipe, stage: Stage, accelerator):
        self._recipe, self._stage, self._accelerator = recipe, stage.name, accelerator
        self._main = accelerator.is_main_process
        self._held_out = held_out(recipe, accelerator.device) if recipe.log.validate else []
        self._lpips = None
        if recipe.log.validate and lpips_is_at_hand(recipe.loss_options.lpips_backbone):
            self._lpips = Lpips(recipe.loss_options.lpips_backbone).cpu()
        elif recipe.log.validate:
            log.warning("validation goes without LPIPS: the VGG16 of torchvision is not at hand")
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._then = time.perf_counter()
        total = sum(phase.steps for phase in recipe.phases(stage.name))
        self._bar = tqdm(total=total, desc=stage.name, disable=not self._main, leave=True)
        self._board = _board(Path(recipe.out) / "tensorboard") if self._main else None

    def step(self, step: int, values: dict[str, float]) -> None:
        """Means over the steps since the last line; gradient norms per loss when there are any."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if step % self._recipe.log.log_every:
            return
        means = {k: v / self._counts[k] for k, v in self._sums.items()}
        now = time.perf_counter()
        means["steps_per_second"] = self._counts["lr"] / (now - self._then)
        self._then = now
        self._sums, self._counts = {}, {}
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix({"loss": f"{means['loss']:.4f}"})
        self._write(step, means)

    def validate(self, step: int, stage: Stage) -> None:
        """Metrics on the held-out pictures, and a sheet of input, result and target."""
        began = time.perf_counter()
        # By every process: under FSDP none has the weights alone.
        metrics, pictures = validate(stage.result, self._held_out, self._lpips)
        if not self._main:
            return
        self._write(step, {f"validation_{k}": v for k, v in metrics.items()})
        picture = sheet(pictures)
        folder = Path(self._recipe.out) / "samples"
        folder.mkdir(exist_ok=True)
        data = (picture * 255).round().to(torch.uint8).numpy()
        Image.fromarray(data).save(folder / f"{self._stage}-{step:08d}.png")
        if self._board is not None:
            self._board.add_image(f"{self._stage}/samples", np.moveaxis(data, -1, 0), step)
        self._then += time.perf_counter() - began

    def close(self) -> None:
        """End the bar and tensorboard's file."""
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        if not self._main:
            return
        append_log(Path(self._recipe.out) / CSV_FILE, self._stage, step, values)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{self._stage}/{name}", value, step)
            self._board.flush()


def _board(folder: Path):
    """Tensorboard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("tensorboard is not installed; the log goes to %s only", CSV_FILE)
        return None
    return SummaryWriter(str(folder))
