"""Phases of a run: steps, pictures a step and rates, and the optimizer that takes them."""

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
    """Pictures per step, over all processes; reached by accumulation."""
    lr: Rate
    """Learning rate of generator and discriminator."""

    def __post_init__(self) -> None:
        check_value("the steps of a phase", self.steps, Steps)
        check_value("the pictures per step of a phase", self.images, Pictures)
        check_value("the rate of a phase", self.lr, Rate)

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
    """How long every stage trains, and at which rates."""

    autoencoder: Phases = ()
    """Phases of the autoencoder stage."""
    diffusion: Phases = ()
    """Phases of the diffusion stage."""
    encoder: Phases = ()
    """Phases of the encoder stage. Without steps (0x8@1e-4) it writes the encoder again, for
    another decoder."""
    adversarial: Phases = ()
    """Phases of the adversarial stage."""
    warmup: Annotated[int, Bounds(0, 10**6, "steps")] = 0
    """Steps over which the learning rate rises to that of the first phase."""
    ema: Annotated[float, Bounds(0, 0.999999)] = 0.999
    """Decay per step of the weights that are exported, which are averages over steps."""


@settings
class Optimizer:
    """How a gradient becomes a step."""

    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """Kind; adamw8bit needs bitsandbytes and keeps a quarter of the state."""
    betas: tuple[Annotated[float, Bounds(0, 0.999999)], Annotated[float, Bounds(0, 0.999999)]] = (
        0.9,
        0.999,
    )
    """Decays of AdamW's two averages."""
    weight_decay: Annotated[float, Bounds(0, 1)] = 0.01
    """Weight decay of AdamW."""
    clip: Annotated[float, Bounds(1e-6, 1e6)] = 1.0
    """Largest norm of a gradient, of generator and discriminator; larger ones are shortened."""


def phase_at(phases: Phases, step: int) -> Phase:
    """The phase that a step belongs to."""
    for phase in phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    raise IndexError(step)


def batches_per_step(batch: int, phase: Phase, world: int) -> int:
    """Batches of `batch` pictures that one process takes for one step (gradient accumulation)."""
    count, rest = divmod(phase.images, batch * world)
    if rest or not count:
        raise ValueError(
            f"{phase.images} pictures a step cannot be made of batches of {batch} on {world} "
            f"process{'es' if world > 1 else ''}; choose --batch so that batch x processes "
            f"divides it"
        )
    return count


def batches_before(batch: int, phases: Phases, step: int, world: int) -> int:
    """Batches that one process took before a step."""
    taken = 0
    for phase in phases:
        taken += min(step, phase.steps) * batches_per_step(batch, phase, world)
        step = max(0, step - phase.steps)
    return taken


def make_optimizer(asked: Optimizer, trained: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW over trained parameters; the loop sets the rate."""
    parameters = list(trained)
    options = {"lr": 0.0, "betas": asked.betas, "weight_decay": asked.weight_decay}
    if asked.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError("adamw8bit needs bitsandbytes; pip install bitsandbytes") from error
    return AdamW8bit(parameters, **options)
