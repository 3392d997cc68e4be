"""What the network is told and given beside the picture in training: draws that follow from it.

Every draw is made from the number of the picture, so that a resumed run draws the same.
"""

from typing import Annotated, Literal

import numpy as np

from .bounds import Bounds, Share, settings
from .data import derive_seed


@settings
class Conditions:
    """What the network is told and given beside the picture."""

    texture: bool = True
    """Train a richness token."""
    texture_drop: Share = 0.1
    """Chance that a batch goes without the richness token."""
    richness_spread: Annotated[float, Bounds(0, 1, "richness")] = 0.0
    """The richness asked is the target's plus up to this, either way. At 0 the token tells what
    the picture shows anyway, and little is learnt of it."""
    noise: Annotated[float, Bounds(0, 1, "deviations of the latent")] = 0.5
    """Largest strength of noise injected into the latent; drawn evenly from 0."""
    noise_off: Share = 0.5
    """Chance that a picture gets no noise."""
    posterior: Literal["mean", "sample"] = "mean"
    """Which latent of the degraded picture the network sees: the encoder's mean, or a sample."""
    random_positions: bool = False
    """Shift the position table of an SD3 network at random, so that all of it is trained."""


class Draws:
    """The draws of a run."""

    def __init__(self, asked: Conditions, seed: int):
        self._asked, self._seed = asked, seed

    def network(self, numbers: list[int]) -> np.random.Generator:
        """For what a batch shares: the token's absence first, then the shift of positions."""
        return self._rng("network", numbers[0])

    def noise(self, numbers: list[int]) -> tuple[list[float], list[int]]:
        """Strengths and seeds of injected noise, one per picture."""
        strengths, seeds = [], []
        for number in numbers:
            draw = self._rng("noise", number)
            off = draw.random() < self._asked.noise_off
            strengths.append(0.0 if off else draw.uniform(0, self._asked.noise))
            seeds.append(int(draw.integers(0, 2**63)))
        return strengths, seeds

    def richness(self, numbers: list[int]) -> list[float] | None:
        """How far the richness asked lies from each target's; None for nowhere."""
        spread = self._asked.richness_spread
        if not spread:
            return None
        return [self._rng("richness", n).uniform(-spread, spread) for n in numbers]

    def posterior(self, numbers: list[int]) -> list[int] | None:
        """Seeds of the encoder's samples; None for its mean."""
        if self._asked.posterior == "mean":
            return None
        return [derive_seed(self._seed, "posterior", n) for n in numbers]

    def judge(self, numbers: list[int]) -> list[int]:
        """Seeds of what a discriminator draws."""
        return [derive_seed(self._seed, "judge", n) for n in numbers]

    def _rng(self, purpose: str, number: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, purpose, number))
