"""What a run tells: a progress bar, the log (log.py), trackers, validation with pictures."""

import logging
import time
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from .engine import describe_device
from .log import CSV_FILE, append_log
from .loop import Stage
from .perceptual import Lpips, lpips_is_at_hand
from .recipe import Recipe
from .schedule import Phases, batches_per_step, phase_at
from .trackers import Trackers
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
        # Its own estimate would count steps, whose images differ between phases.
        shape = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        self._bar = tqdm(total=total, desc=stage.name, disable=not self._main, bar_format=shape)
        names = recipe.log.trackers if self._main else ()
        self._trackers = Trackers(names, Path(recipe.out), recipe.flat())
        self._images = 0
        if self._main:
            for line in describe(recipe, stage.name, accelerator):
                log.info("%s", line)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Means over the steps since the last line; gradient norms per loss when there are any."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        phases = self._recipe.phases(self._stage)
        self._images += phase_at(phases, step - 1).images
        if step % self._recipe.log.log_every:
            return
        means = {k: v / self._counts[k] for k, v in self._sums.items()}
        now = time.perf_counter()
        means["steps_per_second"] = self._counts["lr"] / (now - self._then)
        means["images_per_second"] = self._images / (now - self._then)
        self._then, self._images = now, 0
        self._sums, self._counts = {}, {}
        self._bar.update(step - self._bar.n)
        seconds = images_left(phases, step) / means["images_per_second"]
        self._bar.set_postfix_str(
            f"loss {means['loss']:.4f}, {means['images_per_second']:.3g} images/s, "
            f"{tqdm.format_interval(seconds)} left"
        )
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
        self._trackers.show(f"{self._stage}/samples", data, step)
        self._then += time.perf_counter() - began

    def close(self) -> None:
        """End the bar and the trackers."""
        self._bar.close()
        self._trackers.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        if not self._main:
            return
        append_log(Path(self._recipe.out) / CSV_FILE, self._stage, step, values)
        self._trackers.log({f"{self._stage}/{name}": v for name, v in values.items()}, step)


def describe(recipe: Recipe, stage: str, accelerator) -> list[str]:
    """What the stage runs on, for people: device, precision, processes, batches, warnings."""
    world, batch = accelerator.num_processes, recipe.data.batch
    counts = [batches_per_step(batch, phase, world) for phase in recipe.phases(stage)]
    device, slow = describe_device(accelerator.device, recipe.engine.precision)
    precision = {"no": "float32"}.get(recipe.engine.precision, recipe.engine.precision)
    many = f"{world} process{'es' if world > 1 else ''}"
    return [
        f"{stage} stage on {device}, {precision}, {many}, {batch} images at once, "
        f"{' then '.join(map(str, counts))} batches per step",
        *slow,
    ]


def images_left(phases: Phases, step: int) -> int:
    """Images of the steps that are still to come after `step` of them."""
    left = 0
    for phase in phases:
        left += max(0, phase.steps - step) * phase.images
        step = max(0, step - phase.steps)
    return left
