"""The generator's opponent: a discriminator, its optimizer, and the turns that the two take.

A stage that trains against one asks it for the price of its pictures (`price`), keeps what was
judged, and after its own update lets it learn from the same pictures (`learn`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .adversary import accuracy, discriminator_loss, generator_loss
from .discriminators import Discriminator, PatchDiscriminator
from .loop import add_up, settle, synced, trainable, update
from .recipe import Recipe
from .schedule import make_optimizer
from .sharding import prepare


@dataclass(frozen=True)
class Round:
    """Pictures that were judged: pixels or latents, whichever the discriminator sees."""

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
        self._clip = recipe.optimizer.clip
        self.discriminator = discriminator
        optimizer = make_optimizer(recipe.optimizer, trainable(discriminator).values())
        self._d, self.optimizer = prepare(accelerator, discriminator, optimizer)

    def price(self, fake: Tensor, seeds: list[int]) -> Tensor:
        """What the generator pays for `fake`; the discriminator is left as it is.

        Neither its heads nor its spectral norms are touched while the generator learns.
        """
        heads = list(trainable(self.discriminator).values())
        for p in heads:
            p.requires_grad_(False)
        logits = self.discriminator.eval()(fake, seeds)
        for p in heads:
            p.requires_grad_(True)
        return generator_loss(logits, self._game.gan_loss, self._game.gan_target_generator)

    def learn(self, rounds: list[Round]) -> dict[str, float]:
        """One update of the discriminator, on what the generator gave before its own."""
        sums: dict[str, Tensor] = {}
        # Under FSDP the generator's pass leaves gradients in the heads all the same.
        self.optimizer.zero_grad(set_to_none=True)
        self._d.train()
        for i, judged in enumerate(rounds):
            last = i == len(rounds) - 1
            with synced(self._accelerator, self._d, last), self._accelerator.autocast():
                logits = self._d(torch.cat([judged.real, judged.fake]), judged.seeds * 2)
                half = len(judged.real)
                real, fake = [x[:half] for x in logits], [x[half:] for x in logits]
                loss = discriminator_loss(real, fake, self._game.gan_loss, self._game.gan_target)
                self._accelerator.backward(loss / len(rounds))
            add_up(
                sums,
                {
                    "d_loss": loss,
                    "d_real": torch.stack([x.mean() for x in real]).mean(),
                    "d_fake": torch.stack([x.mean() for x in fake]).mean(),
                    "d_accuracy": accuracy(real, fake),
                },
            )
        values = settle(self._accelerator, sums, len(rounds))
        norm = update(self._accelerator, self.optimizer, self.discriminator, self._clip)
        return {**values, "d_gradient": float(norm)}
