"""What a stage costs: the stage itself takes one batch on the meta device.

There tensors have sizes, precisions and lifetimes, and nothing is computed, so that every byte of a
step is counted as it comes and goes: weights, gradients, optimizer, averages, activations (with
recomputation), frozen networks, the discriminator.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from hypir.train.checkpoints import Saving
from hypir.train.feed import Batch
from hypir.train.files import Files
from hypir.train.log import Log
from hypir.train.recipe import Recipe
from hypir.train.schedule import Phase, Schedule
from hypir.train.stages import MAKERS
from hypir.train.update import Place
from hypir.train.weightless import with_files, without_weights

from .engine import META, MetaEngine, MetaKernels
from .live_bytes import LiveBytes

SIZES = {"adamw": 8, "adamw8bit": 2}
"""Bytes of an optimizer's state per trained parameter."""


@dataclass(frozen=True)
class Cost:
    """Of one stage, for one process; bytes, unless a name says otherwise."""

    trained: dict[str, int]
    """Parameters of the trained modules."""
    frozen: int
    """Parameters of all frozen networks."""
    weights: int
    """All networks, trained and frozen."""
    state: int
    """Gradients, the optimizers' state, averages."""
    activations: int
    """The most that is alive beside weights and state within a batch."""
    divided: int
    """Of the weights, what FSDP divides among the processes."""
    checkpoint: int
    flops: int
    """Of a batch: forward, recomputed and backward, generator and discriminator."""

    @property
    def memory(self) -> int:
        """The most that is alive at once."""
        return self.weights + self.state + self.activations


class _Counter(LiveBytes):
    """Counts operations too. torch's own FlopCounterMode holds on to activations."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


def measure(recipe: Recipe, name: str) -> Cost:
    """The cost of a stage of a recipe without a chain.

    Raises:
        ValueError: if the stage cannot be built, as in training.
    """
    # What does not matter here is left out, so that steps of a chain with equal costs are one.
    plain = Schedule(**{name: (Phase(1, recipe.data.batch, 1.0),)})
    files = Files(**dict.fromkeys(recipe.files.given(), "given"))
    data = recipe.data.__class__(
        data=("leaves:",), crop=recipe.data.crop, batch=recipe.data.batch, pool=0
    )
    given = replace(recipe, name="plan", out="", stages=(name,), schedule=plain, files=files)
    return _measured(replace(given, data=data, saving=Saving(), log=Log()), name)


@cache
def _measured(recipe: Recipe, name: str) -> Cost:
    batch = recipe.data.batch
    given = recipe.changed(optimizer="adamw")
    engine = MetaEngine(given.engine.precision)
    with without_weights(), MetaKernels(), engine.recomputing(), _Counter() as tracked:
        stage = MAKERS[name](given, engine)
        parts = _tensors(stage)
        weights = sum(tensor.untyped_storage().nbytes() for tensor in parts)
        trained = _counted(stage)
        wrapped = [p for module in stage.modules.values() for p in module.parameters()]
        backbone = getattr(stage.modules.get("discriminator"), "backbone", nn.Module())
        divided = sum(p.nbytes for p in wrapped) - sum(p.nbytes for p in backbone.parameters())
        # As in the midst of a step: every gradient is there, and the optimizers have their state.
        for key, module in stage.modules.items():
            for p in _trained(module):
                p.grad = torch.zeros_like(p)
            stage.optimizers[key].step()
        before = tracked.peak = tracked.live
        picture = torch.zeros(batch, 3, recipe.data.crop, recipe.data.crop, device=META)
        shown = Batch(
            picture, picture.clone(), [""] * batch, list(range(batch)), picture[:, 0, 0, 0]
        )
        tracked.flops = 0
        # The second of two batches: nothing is probed, gradients are added up.
        stage.backward(shown, Place(1, 1, 2))
        activations = tracked.peak - before
    count = sum(trained.values())
    # gradients have the size of what is trained, which a checkpoint holds instead
    state = checkpoint_bytes(trained, recipe)
    return Cost(
        trained=trained,
        divided=divided,
        frozen=sum(p.numel() for p in parts if isinstance(p, nn.Parameter)) - count,
        weights=weights,
        state=state,
        activations=activations,
        checkpoint=state,
        flops=tracked.flops,
    )


def built(recipe: Recipe, name: str) -> dict[str, int]:
    """Parameters of the trained modules of a stage, built on the meta device from given files.

    Raises:
        ValueError, OSError: as in training, if settings or files do not fit.
    """
    with with_files(), MetaKernels():
        return _counted(MAKERS[name](recipe, MetaEngine(recipe.engine.precision)))


def checkpoint_bytes(trained: dict[str, int], recipe: Recipe) -> int:
    """Size of a checkpoint: weights and optimizers in float32, averages of the first module."""
    each = 4 + SIZES[recipe.optimizer.optimizer]
    return sum(trained.values()) * each + 4 * next(iter(trained.values()))


def _counted(stage) -> dict[str, int]:
    return {k: sum(p.numel() for p in _trained(m)) for k, m in stage.modules.items()}


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _tensors(stage) -> list[torch.Tensor]:
    """Parameters and buffers of all networks that a stage holds, each once."""
    found: dict[int, torch.Tensor] = {}
    seen: set[int] = set()

    def add(value) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            for tensor in (*value.parameters(), *value.buffers()):
                found[id(tensor)] = tensor
            return
        if isinstance(value, dict | list | tuple):
            for entry in value.values() if isinstance(value, dict) else value:
                add(entry)
        elif type(value).__module__.startswith("hypir.train"):
            add(vars(value) if hasattr(value, "__dict__") else None)

    add(vars(stage))
    return list(found.values())
