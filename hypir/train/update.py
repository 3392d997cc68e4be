"""One update of a stage's networks: gradients over the batches of a step, clipping, optimizers.

The host reads the device once per step: the means of all losses and the gradient norms come
together, before anything is updated. Memory does not grow with the number of batches.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .feed import Batch
from .sharding import whole
from .stopping import REQUESTS

AGREED = ("asked to stop", "asked to save")
"""What `settle` adds to the losses of a step: shares of the processes that are asked to."""


@dataclass
class Place:
    """Which batch of which step it is."""

    step: int
    index: int
    count: int
    """Batches of the step."""
    probes: dict[str, float] = field(default_factory=dict)
    """More values to log, as they are."""

    @property
    def last(self) -> bool:
        """Whether the step's gradients are complete after this batch."""
        return self.index == self.count - 1


class Updates:
    """The `step` of a stage: the stage says what a batch adds to its gradients.

    Such a stage has `accelerator`, `clip`, and `modules` and `optimizers` with the same names.
    """

    def backward(self, batch: Batch, place: Place) -> dict[str, Tensor]:
        """Add the gradients of a batch, divided by the number of batches; values to log, 0-dim."""
        raise NotImplementedError

    def step(self, batches: Iterator[Batch], count: int, step: int) -> dict[str, float]:
        """One update of every optimizer from `count` batches; losses by name.

        Raises:
            FloatingPointError: naming the first value that is not finite; nothing is updated then.
        """
        sums: dict[str, Tensor] = {}
        place = Place(step, 0, count)
        for place.index, batch in enumerate(batches):
            for name, value in self.backward(batch, place).items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        values = settle(self.accelerator, sums, count, self._clipped())
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return values | place.probes

    def _clipped(self) -> dict[str, Tensor]:
        """Clip all gradients; their norms before that, 0-dim, by the name in the log."""
        norms = {}
        for name, module in self.modules.items():
            self.accelerator.unscale_gradients(self.optimizers[name])
            own = [p for p in module.parameters() if p.requires_grad]
            norm = whole(nn.utils.clip_grad_norm_(own, self.clip))
            norms["d_gradient" if name == "discriminator" else "gradient"] = norm
        return norms


def settle(
    accelerator, sums: Mapping[str, Tensor], count: int, norms: Mapping[str, Tensor]
) -> dict[str, float]:
    """Means over the batches of a step and over processes; the one synchronisation of the device.

    Along with them the gradient norms and, under the names AGREED, whether any process is asked to
    stop or to save.

    Raises:
        FloatingPointError: naming the first value that is not finite. A norm may be so where there
            is a scaler (fp16), which leaves that step out.
    """
    means = torch.stack([value.detach().float() for value in sums.values()]) / count
    rest = [value.detach().float() for value in norms.values()]
    # Filled on the device: a copy from the host would wait for it.
    rest += [means.new_full((), wish) for wish in REQUESTS.wishes()]
    values = accelerator.reduce(torch.cat([means, torch.stack(rest)]), reduction="mean").tolist()
    result = dict(zip([*sums, *norms, *AGREED], values, strict=True))
    for name, value in result.items():
        if not math.isfinite(value) and (name not in norms or accelerator.scaler is None):
            raise FloatingPointError(f"{'the norm of ' if name in norms else ''}{name} is {value}")
    return result


def synced(accelerator, wrapped: nn.Module, last: bool):
    """Gradients go between processes at the last batch of a step only."""
    return nullcontext() if last else accelerator.no_sync(wrapped)
