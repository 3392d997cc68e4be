"""The loop that every stage runs in: steps, checkpoints, exact resumption, losses that diverge.

Nothing that is random carries over from step to step: data follow from their numbers, and torch's
own generators are seeded anew before each step. So weights, optimizers, averages and the step are
all that a checkpoint needs, and a resumed run repeats the uninterrupted one to the same bits, given
the same number of processes. accelerate is the engine: devices, precision, processes.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .checkpoints import Checkpoints
from .data import derive_seed
from .feed import Batch, Feed
from .files import UNROUNDED
from .order import Order, pool_seed
from .recipe import FORMAT, Recipe
from .resuming import differences, refuse
from .schedule import batches_before, batches_per_step, phase_at
from .sharding import load_optimizer, part_like, whole
from .stopping import REQUESTS, Stopped
from .update import AGREED

log = logging.getLogger(__name__)


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

    def export(self, folder: Path, precision: str = "") -> list[Path]:
        """Write what the nodes load; called by every process, the main one writes.

        `precision`: fp32, fp16 or bf16; that of the recipe by default.
        """


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
        Stopped: if a signal asked for it, behind the checkpoint of its last step.
    """
    phases = recipe.phases(stage.name)
    total = sum(phase.steps for phase in phases)
    folder = Path(recipe.out) / "checkpoints" / stage.name
    checkpoints = Checkpoints(folder, recipe.saving.keep)
    start, order = _resume(stage, recipe, checkpoints, accelerator)
    if start >= total:
        # A run that was killed after its last checkpoint may lack its files.
        _export(stage, recipe, accelerator)
        return start
    world, rank = accelerator.num_processes, accelerator.process_index
    taken = [batches_before(recipe.data.batch, phases, s, world) for s in (order.since, start)]
    feed = Feed(
        recipe,
        accelerator.device,
        taken[1] - taken[0],
        rank,
        order,
        stage.name,
        stage.degrades,
    )
    with closing(feed):
        saved_at = time.monotonic()
        for step in range(start, total):
            phase = phase_at(phases, step)
            count = batches_per_step(recipe.data.batch, phase, world)
            rate = phase.lr * min(1.0, (step + 1) / (recipe.schedule.warmup + 1))
            for name, optimizer in stage.optimizers.items():
                factor = recipe.adversary.discriminator_rate if name == "discriminator" else 1.0
                for group in optimizer.param_groups:
                    group["lr"] = rate * factor
            torch.manual_seed(derive_seed(recipe.seed, f"{stage.name} of {rank}", step) % 2**63)
            minutes = recipe.saving.checkpoint_minutes
            REQUESTS.save = bool(minutes) and time.monotonic() - saved_at >= 60 * minutes
            with REQUESTS.at_the_end_of_a_step():
                try:
                    values = stage.step((feed.next() for _ in range(count)), count, step)
                except FloatingPointError as error:
                    kept = checkpoints.steps()
                    good = f"step {kept[-1]}" if kept else "none yet"
                    raise FloatingPointError(
                        f"{stage.name} stage, step {step + 1}: {error}; nothing of this step was "
                        f"kept, the last good checkpoint is {good}; lower the learning rate, or "
                        f"train in bf16 or fp32"
                    ) from None
                stage.ema.update()
                done = step + 1
                stops, due = (values.pop(name) > 0 for name in AGREED)
                due |= done % recipe.saving.checkpoint_every == 0 or done == total
                unreadable = len(feed.unreadable)
                _tell(watch, recipe, stage, done, {**values, "lr": rate, "unreadable": unreadable})
                if due or stops:
                    save(stage, recipe, checkpoints, done, accelerator, order)
                    saved_at = time.monotonic()
                if stops:
                    raise _stopped(f"the {stage.name} stage, step {done} of {total}")
                if recipe.log.validate and (done % recipe.log.validate_every == 0 or done == total):
                    _tell(watch, recipe, stage, done)
    if REQUESTS.stop:
        raise _stopped(f"the {stage.name} stage, step {total} of {total}")
    return start


def _tell(
    watch: Watcher | None,
    recipe: Recipe,
    stage: Stage,
    step: int,
    values: dict[str, float] | None = None,
) -> None:
    """Tell the watcher of a step, or without values that a validation is due.

    Where it cannot write, as on a full disk, the run ends as if it were asked to: with the next
    step and its checkpoint.
    """
    try:
        if watch is not None:
            watch.validate(step, stage) if values is None else watch.step(step, values)
    except OSError as error:
        REQUESTS.stop = REQUESTS.stop or f"an error: {recipe.out!r} cannot be written ({error})"


def _stopped(where: str) -> Stopped:
    why = REQUESTS.stop or "a signal to another process"
    return Stopped(
        f"stopped by {why} in {where}; its checkpoint is written: run the same command again to "
        f"go on",
        REQUESTS.code,
    )


def save(
    stage: Stage,
    recipe: Recipe,
    checkpoints: Checkpoints,
    step: int,
    accelerator,
    order: Order | None = None,
) -> None:
    """Checkpoint and exported files, written by the main process; the others wait."""
    accelerator.wait_for_everyone()
    scaler = accelerator.scaler
    state = {
        "recipe": {"format": FORMAT, **recipe.flat()},
        "processes": accelerator.num_processes,
        "order": (order or Order(accelerator.num_processes)).state(),
        "modules": {k: module_state(m) for k, m in stage.modules.items()},
        "optimizers": {k: whole(o.state_dict()) for k, o in stage.optimizers.items()},
        "ema": whole(stage.ema.shadow),
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    if accelerator.is_main_process:
        checkpoints.save(step, state)
    _export(stage, recipe, accelerator)
    accelerator.wait_for_everyone()


def _export(stage: Stage, recipe: Recipe, accelerator) -> None:
    """The files of a stage, and beside its checkpoints what later stages read, not rounded."""
    out, exact = Path(recipe.out), Path(recipe.out) / UNROUNDED
    files = stage.export(out)
    if recipe.saving.export != "fp32":
        exact.mkdir(parents=True, exist_ok=True)
        stage.export(exact, "fp32")
    elif accelerator.is_main_process:
        for file in files:
            (exact / file.name).unlink(missing_ok=True)  # of a run that rounded


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name."""
    return {k: p for k, p in module.named_parameters() if p.requires_grad}


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """What training changes in a module: trained parameters, and the vectors of spectral norms."""
    kept = {**trainable(module), **norms_of(module)}
    return {k: whole(v.detach()).clone() for k, v in kept.items()}


def norms_of(module: nn.Module) -> dict[str, Tensor]:
    """The vectors of spectral norms, by name."""
    return {k: b for k, b in module.named_buffers() if ".parametrizations." in k}


@torch.no_grad()
def load_module_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse of module_state."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    wanted = set(module_state(module))
    odd = sorted(wanted ^ set(state))
    odd += [k for k in sorted(wanted & set(state)) if own[k].shape != state[k].shape]
    if odd:
        raise ValueError(
            f"the checkpoint trains other parameters than this recipe, first {odd[0]!r} of "
            f"{len(odd)}; use the recipe it was made with, or another --out"
        )
    for name, value in state.items():
        own[name].copy_(part_like(value, own[name]))


def _resume(
    stage: Stage, recipe: Recipe, checkpoints: Checkpoints, accelerator
) -> tuple[int, Order]:
    """The step to go on from, and the order of pictures since some step."""
    found = checkpoints.load()
    if found is None:
        return 0, Order(accelerator.num_processes)
    step, state = found
    odd = differences(state["recipe"], recipe, stage.name, step)
    refuse(odd, recipe)
    for text in odd:
        log.warning("going on with a run that was made with %s", text)
    order = Order.of(state.get("order", {"processes": state["processes"], "waiting": ()}))
    if order.processes != accelerator.num_processes:
        order = _other_processes(order, recipe, stage, step, accelerator.num_processes)
    for name, module in stage.modules.items():
        load_module_state(module, state["modules"][name])
    for name, optimizer in stage.optimizers.items():
        load_optimizer(optimizer, state["optimizers"][name])
    for name, value in stage.ema.shadow.items():
        value.copy_(part_like(state["ema"][name], value))
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    return step, order


def _other_processes(order: Order, recipe: Recipe, stage: Stage, step: int, now: int) -> Order:
    """The order for another number of processes, which goes on where the old one was."""
    log.warning(
        "the run was made by %d processes, now there are %d: it goes on from the same weights and "
        "optimizers, and every picture comes, but in another order than it would have",
        order.processes,
        now,
    )
    asked, phases = recipe.data, recipe.phases(stage.name)
    taken = [batches_before(asked.batch, phases, s, order.processes) for s in (order.since, step)]
    seeds = [pool_seed(recipe.seed, stage.name, rank) for rank in range(order.processes)]
    return order.changed(now, step, taken[1] - taken[0], asked, seeds)
