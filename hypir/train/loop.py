"""The loop that every stage runs in: steps, checkpoints, exact resumption, losses that diverge.

Nothing that is random carries over from step to step: data follow from their numbers, and torch's
own generators are seeded anew before each step. So weights, optimizers, averages and the step are
all that a checkpoint needs, and a resumed run repeats the uninterrupted one to the same bits, given
the same number of processes. accelerate is the engine: devices, precision, processes.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .checkpoints import Checkpoints
from .data import derive_seed
from .feed import Batch, Feed
from .recipe import FORMAT, Recipe, check_format, defaults
from .schedule import batches_before, batches_per_step, phase_at
from .sharding import load_optimizer, part_like, whole

MAY_CHANGE = {"out", "data", "workers", "keep", "checkpoint_every", "log_every", "stages"}
MAY_CHANGE |= {"validate", "validate_every", "validate_count", "probe_every", "base", "variant"}
MAY_CHANGE |= {"autoencoder", "diffusion", "encoder", "adversarial", "export", "lpips_backbone"}
MAY_CHANGE |= {
    "discriminator_weights",
    "autoencoder_file",
    "prior_file",
    "encoder_file",
    "lora_file",
}
"""Fields of a recipe that a resumed run may have otherwise; phases may grow."""


class Ema:
    """Moving averages of trainable parameters, from their start values, without bias correction."""

    def __init__(self, module: nn.Module, decay: float):
        self._parameters = trainable(module)
        self.shadow = {k: p.detach().clone() for k, p in self._parameters.items()}
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """One step: shadow = decay * shadow + (1 - decay) * parameter."""
        self._average(list(self.shadow.values()), list(self._parameters.values()), 0)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the module computes with the averages."""
        kept = {k: p.detach().clone() for k, p in self._parameters.items()}
        self._put(self.shadow)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        # Copied, not exchanged: FSDP remembers where a parameter's numbers lie.
        for k, p in self._parameters.items():
            p.copy_(tensors[k])


class Stage(Protocol):
    """What the loop needs of a stage."""

    name: str
    degrades: bool
    """Whether its batches need the degraded side."""
    modules: Mapping[str, nn.Module]
    """Trained modules, not wrapped; the first is the one that is averaged and exported."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    ema: Ema

    def step(self, batches: Iterator[Batch], count: int, step: int) -> dict[str, float]:
        """One update of every optimizer from `count` batches; losses by name."""

    def result(self, batch: Batch) -> Tensor:
        """Pixels that the averaged weights make of a batch."""

    def export(self, folder: Path) -> list[Path]:
        """Write what the nodes load; called by every process, the main one writes."""


class Watcher(Protocol):
    """What the loop tells about itself."""

    def step(self, step: int, values: dict[str, float]) -> None:
        """Called after every step."""

    def validate(self, step: int, stage: Stage) -> None:
        """Called when a validation is due."""

    def close(self) -> None:
        """Called when the stage ends, however it ends."""


def run_stage(stage: Stage, recipe: Recipe, accelerator, watch: Watcher | None = None) -> int:
    """Run a stage to its end, from its newest checkpoint if there is one.

    Returns:
        The step it began at.

    Raises:
        FloatingPointError: naming step and loss, if one is not finite.
    """
    phases = recipe.phases(stage.name)
    total = sum(phase.steps for phase in phases)
    folder = Path(recipe.out) / "checkpoints" / stage.name
    checkpoints = Checkpoints(folder, recipe.saving.keep)
    start = _resume(stage, recipe, checkpoints, accelerator)
    if start >= total:
        # A run that was killed after its last checkpoint may lack its files.
        stage.export(Path(recipe.out))
        return start
    world, rank = accelerator.num_processes, accelerator.process_index
    feed = Feed(
        recipe,
        accelerator.device,
        batches_before(recipe.data.batch, phases, start, world),
        rank,
        world,
        stage.name,
        stage.degrades,
    )
    for step in range(start, total):
        phase = phase_at(phases, step)
        count = batches_per_step(recipe.data.batch, phase, world)
        rate = phase.lr * min(1.0, (step + 1) / (recipe.schedule.warmup + 1))
        for name, optimizer in stage.optimizers.items():
            factor = recipe.adversary.discriminator_rate if name == "discriminator" else 1.0
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        torch.manual_seed(derive_seed(recipe.seed, f"{stage.name} of {rank}", step) % 2**63)
        try:
            values = stage.step((feed.next() for _ in range(count)), count, step)
        except FloatingPointError as error:
            kept = checkpoints.steps()
            good = f"step {kept[-1]}" if kept else "none yet"
            raise FloatingPointError(
                f"{stage.name} stage, step {step + 1}: {error}; nothing of this step was kept, the "
                f"last good checkpoint is {good}; lower the learning rate, or train in bf16 or fp32"
            ) from None
        stage.ema.update()
        if watch is not None:
            watch.step(step + 1, {**values, "lr": rate, "unreadable": len(feed.unreadable)})
        done = step + 1
        if done % recipe.saving.checkpoint_every == 0 or done == total:
            save(stage, recipe, checkpoints, done, accelerator)
        if (
            watch is not None
            and recipe.log.validate
            and (done % recipe.log.validate_every == 0 or done == total)
        ):
            watch.validate(done, stage)
    return start


def save(stage: Stage, recipe: Recipe, checkpoints: Checkpoints, step: int, accelerator) -> None:
    """Checkpoint and exported files, written by the main process; the others wait."""
    accelerator.wait_for_everyone()
    scaler = accelerator.scaler
    state = {
        "recipe": {"format": FORMAT, **recipe.flat()},
        "processes": accelerator.num_processes,
        "modules": {k: module_state(m) for k, m in stage.modules.items()},
        "optimizers": {k: whole(o.state_dict()) for k, o in stage.optimizers.items()},
        "ema": whole(stage.ema.shadow),
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    if accelerator.is_main_process:
        checkpoints.save(step, state)
    stage.export(Path(recipe.out))
    accelerator.wait_for_everyone()


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name."""
    return {k: p for k, p in module.named_parameters() if p.requires_grad}


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """What training changes in a module: trained parameters, and the vectors of spectral norms."""
    norms = {k: b for k, b in module.named_buffers() if ".parametrizations." in k}
    return {k: whole(v.detach()).clone() for k, v in {**trainable(module), **norms}.items()}


@torch.no_grad()
def load_module_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse of module_state."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    wanted = set(module_state(module))
    if wanted != set(state):
        odd = sorted(wanted ^ set(state))
        raise ValueError(
            f"the checkpoint trains other parameters than this recipe, first {odd[0]!r} of "
            f"{len(odd)}; use the recipe it was made with, or another --out"
        )
    for name, value in state.items():
        own[name].copy_(part_like(value, own[name]))


def add_up(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Add the values of one batch to those of the step, in place."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value.detach()


def settle(accelerator, sums: Mapping[str, Tensor], count: int) -> dict[str, float]:
    """Means over the batches of a step and over processes; one synchronisation of the device.

    Raises:
        FloatingPointError: naming the first value that is not finite.
    """
    names = list(sums)
    values = torch.stack([sums[k].detach().float() for k in names]) / count
    values = accelerator.reduce(values, reduction="mean").tolist()
    result = dict(zip(names, values, strict=True))
    for name, value in result.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value}")
    return result


def update(accelerator, optimizer, module: nn.Module, clip: float) -> Tensor:
    """Clip and step; the gradient norm before clipping, 0-dim."""
    accelerator.unscale_gradients(optimizer)
    norm = whole(nn.utils.clip_grad_norm_(list(trainable(module).values()), clip))
    if accelerator.scaler is None and not torch.isfinite(norm):
        raise FloatingPointError(f"gradient norm is {float(norm)}")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def synced(accelerator, wrapped: nn.Module, last: bool):
    """Gradients go between processes at the last batch of a step only."""
    return nullcontext() if last else accelerator.no_sync(wrapped)


def _resume(stage: Stage, recipe: Recipe, checkpoints: Checkpoints, accelerator) -> int:
    found = checkpoints.load()
    if found is None:
        return 0
    step, state = found
    check_format(state["recipe"], recipe.out)
    # A field that the run's version did not have yet was, in effect, at its default.
    then, now = defaults() | state["recipe"], recipe.flat()
    odd = [k for k in now if k not in MAY_CHANGE and then[k] != now[k]]
    if odd:
        raise ValueError(
            f"{recipe.out!r} holds a run with {odd[0]}={then[odd[0]]!r}, asked is "
            f"{now[odd[0]]!r}; use the same settings to go on, or another --out"
        )
    if state["processes"] != accelerator.num_processes:
        raise ValueError(
            f"the run was made by {state['processes']} processes, now there are "
            f"{accelerator.num_processes}; launch as many to resume exactly, or use another --out"
        )
    for name, module in stage.modules.items():
        load_module_state(module, state["modules"][name])
    for name, optimizer in stage.optimizers.items():
        load_optimizer(optimizer, state["optimizers"][name])
    for name, value in stage.ema.shadow.items():
        value.copy_(part_like(state["ema"][name], value))
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    return step
