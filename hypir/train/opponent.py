"""The generator's opponent: a discriminator, its optimizer, and the turns that the two take.

A stage that trains against one asks it for the price of a batch of its pictures (`price`), and then
lets it learn from the same pictures (`learn`); both networks are updated at the end of the step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .adversary import accuracy, discriminator_loss, generator_loss
from .discriminators import Discriminator, PatchDiscriminator
from .loop import norms_of, trainable
from .recipe import Recipe
from .schedule import make_optimizer
from .sharding import is_sharded, prepare
from .update import Place, synced


@dataclass(frozen=True)
class Judged:
    """Pictures to be judged: pixels or latents, whichever the discriminator sees."""

    real: Tensor
    fake: Tensor
    seeds: list[int]
    """One per pair."""


class Opponent:
    """A discriminator that is trained beside a generator."""

    def __init__(
        self, recipe: Recipe, discriminator: Discriminator | PatchDiscriminator, accelerator
    ):
        self._game, self._accelerator = recipe.adversary, accelerator
        self._before: dict[str, Tensor] = {}
        self.discriminator = discriminator
        optimizer = make_optimizer(recipe.optimizer, trainable(discriminator).values())
        self._d, self.optimizer = prepare(accelerator, discriminator, optimizer)

    def price(self, fake: Tensor, seeds: list[int]) -> Tensor:
        """What the generator pays for `fake`; the discriminator is left as it is.

        Every batch of a step is priced by the discriminator as it was before the step: its heads
        change only after it, and its spectral norms, which every turn in `learn` brings closer, are
        put back.
        """
        heads = list(trainable(self.discriminator).values())
        for p in heads:
            p.requires_grad_(False)
        # Losses are computed without autocast; the discriminator is a network.
        with self._norms_before_the_step(), self._accelerator.autocast():
            logits = self.discriminator.eval()(fake, seeds)
        for p in heads:
            p.requires_grad_(True)
        return generator_loss(logits, self._game.gan_loss, self._game.gan_target_generator)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, the generator's backward pass leaves no gradient in the discriminator.

        FSDP computes one for the heads all the same.
        """
        heads = list(trainable(self.discriminator).values())
        gradients = [p.grad for p in heads]
        for p in heads:
            p.grad = None
        yield
        for p, gradient in zip(heads, gradients, strict=True):
            p.grad = gradient

    def learn(self, judged: Judged, place: Place) -> dict[str, Tensor]:
        """Add the discriminator's gradients of a batch; values to log."""
        if place.index == 0:
            self._before = {k: b.clone() for k, b in norms_of(self.discriminator).items()}
        self._d.train()
        # A sharded generator's turn would mix its gradients with those that wait unsharded.
        last = place.last or is_sharded(self._accelerator)
        with synced(self._accelerator, self._d, last), self._accelerator.autocast():
            logits = self._d(torch.cat([judged.real, judged.fake]), judged.seeds * 2)
            half = len(judged.real)
            real, fake = [x[:half] for x in logits], [x[half:] for x in logits]
            loss = discriminator_loss(real, fake, self._game.gan_loss, self._game.gan_target)
            self._accelerator.backward(loss / place.count)
        if place.last:
            self._before = {}
        return {
            "d_loss": loss,
            "d_real": torch.stack([x.mean() for x in real]).mean(),
            "d_fake": torch.stack([x.mean() for x in fake]).mean(),
            "d_accuracy": accuracy(real, fake),
        }

    @contextmanager
    def _norms_before_the_step(self) -> Iterator[None]:
        own = norms_of(self.discriminator) if self._before else {}
        now = {k: b.clone() for k, b in own.items()}
        for k, b in own.items():
            b.copy_(self._before[k])
        yield
        for k, b in own.items():
            b.copy_(now[k])
