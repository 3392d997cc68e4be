"""Phases of a run (steps, images per step, learning rates), and the optimizer."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn

from .bounds import Bounds, check_value, settings

_PHASE = re.compile(r"(?P<steps>\d+)x(?P<images>\d+)@(?P<lr>[0-9.e+-]+)")
Steps = Annotated[int, Bounds(0, 10**8, "steps")]
Pictures = Annotated[int, Bounds(1, 10**7, "pictures")]
Rate = Annotated[float, Bounds(1e-12, 1.0)]


@dataclass(frozen=True)
class Phase:
    """Some steps at one batch size and learning rate; as text "10000x384@1e-5"."""

    FORM: ClassVar[str] = "STEPSxPICTURES@RATE, as 10000x384@1e-5"

    steps: Steps
    images: Pictures
    """Images per step over all processes, reached by gradient accumulation."""
    lr: Rate
    """Learning rate of generator and discriminator."""

    def __post_init__(self) -> None:
        check_value("the steps of a phase", self.steps, Steps)
        check_value("the images per step of a phase", self.images, Pictures)
        check_value("the learning rate of a phase", self.lr, Rate)

    @classmethod
    def parse(cls, text: str) -> "Phase":
        """The phase that "STEPSxPICTURES@RATE" names (ValueError otherwise)."""
        match = _PHASE.fullmatch(text.strip())
        if not match:
            raise ValueError(f"a phase is written {cls.FORM}, got {text!r}")
        try:
            rate = float(match["lr"])
        except ValueError:
            raise ValueError(f"a phase is written {cls.FORM}, got {text!r}") from None
        return cls(int(match["steps"]), int(match["images"]), rate)

    def __str__(self) -> str:
        return f"{self.steps}x{self.images}@{self.lr:g}"


Phases = tuple[Phase, ...]


@settings
class Schedule:
    """Length and learning rates of every stage."""

    autoencoder: Phases = ()
    """Phases of the autoencoder stage."""
    diffusion: Phases = ()
    """Phases of the diffusion stage."""
    encoder: Phases = ()
    """Phases of the encoder stage. With 0 steps (0x8@1e-4) it writes the same encoder for another
    decoder."""
    adversarial: Phases = ()
    """Phases of the adversarial stage."""
    warmup: Annotated[int, Bounds(0, 10**6, "steps")] = 0
    """Warm-up: steps over which the learning rate rises to that of the first phase."""
    ema: Annotated[float, Bounds(0, 0.999999)] = 0.999
    """Decay per step of the exponential moving average (EMA) of the weights, which is exported."""


@settings
class Optimizer:
    """The optimizer."""

    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """The optimizer; adamw8bit needs bitsandbytes and uses a quarter of the state memory."""
    betas: tuple[Annotated[float, Bounds(0, 0.999999)], Annotated[float, Bounds(0, 0.999999)]] = (
        0.9,
        0.999,
    )
    """Decay rates (betas) of AdamW's two averages."""
    weight_decay: Annotated[float, Bounds(0, 1)] = 0.01
    """Weight decay of AdamW."""
    clip: Annotated[float, Bounds(1e-6, 1e6)] = 1.0
    """Gradient clipping: largest gradient norm of generator and discriminator."""


def phase_at(phases: Phases, step: int) -> Phase:
    """The phase of a step."""
    for phase in phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    raise IndexError(step)


def batches_per_step(batch: int, phase: Phase, world: int) -> int:
    """Batches of `batch` images per process and step (gradient accumulation)."""
    count, rest = divmod(phase.images, batch * world)
    if rest or not count:
        raise ValueError(
            f"{phase.images} images per step are not a multiple of batches of {batch} on {world} "
            f"process{'es' if world > 1 else ''}; choose --batch so that batch x processes divides "
            "the number"
        )
    return count


def batches_before(batch: int, phases: Phases, step: int, world: int) -> int:
    """Batches that one process has used before a step."""
    taken = 0
    for phase in phases:
        taken += min(step, phase.steps) * batches_per_step(batch, phase, world)
        step = max(0, step - phase.steps)
    return taken


def make_optimizer(asked: Optimizer, trained: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW over the trained parameters; the loop sets the learning rate."""
    parameters = list(trained)
    options = {"lr": 0.0, "betas": asked.betas, "weight_decay": asked.weight_decay}
    if asked.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError("adamw8bit needs bitsandbytes; pip install bitsandbytes") from error
    return AdamW8bit(parameters, **options)
