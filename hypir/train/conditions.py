"""The network's conditions besides the image in training, and their random draws.

Every draw depends on the number of the image, so a resumed run draws the same.
"""

from typing import Annotated, Literal

import numpy as np

from .bounds import Bounds, Share, settings
from .data import derive_seed


@settings
class Conditions:
    """Conditions of the network besides the image."""

    texture: bool = True
    """Train a richness token."""
    texture_drop: Share = 0.1
    """Probability that a batch has no richness token."""
    richness_spread: Annotated[float, Bounds(0, 1, "richness")] = 0.0
    """The requested richness differs from the target's by up to this. At 0 the token only repeats
    what the image already shows, and the network almost ignores it."""
    noise: Annotated[float, Bounds(0, 1, "standard deviations of the latent")] = 0.5
    """Largest strength of the noise injected into the latent, drawn uniformly from 0."""
    noise_off: Share = 0.5
    """Probability that an image gets no noise."""
    posterior: Literal["mean", "sample"] = "mean"
    """Latent of the degraded image: the mean of the encoder's posterior, or a sample."""
    random_positions: bool = False
    """Shift the position table of an SD3 network randomly, so that all of it is trained."""


class Draws:
    """The random draws of a run."""

    def __init__(self, asked: Conditions, seed: int):
        self._asked, self._seed = asked, seed

    def network(self, numbers: list[int]) -> np.random.Generator:
        """Draws shared by a batch: first whether the token is dropped, then the position shift."""
        return self._rng("network", numbers[0])

    def noise(self, numbers: list[int]) -> tuple[list[float], list[int]]:
        """Strengths and seeds of injected noise, one per image."""
        strengths, seeds = [], []
        for number in numbers:
            draw = self._rng("noise", number)
            off = draw.random() < self._asked.noise_off
            strengths.append(0.0 if off else draw.uniform(0, self._asked.noise))
            seeds.append(int(draw.integers(0, 2**63)))
        return strengths, seeds

    def richness(self, numbers: list[int]) -> list[float] | None:
        """Difference of the requested richness from each target's; None if there is none."""
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
        """Seeds of a discriminator's draws."""
        return [derive_seed(self._seed, "judge", n) for n in numbers]

    def _rng(self, purpose: str, number: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, purpose, number))
