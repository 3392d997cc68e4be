"""What a network predicts (eps, v or flow): one record each, with its noise levels and formulas.

The conversions are DDPM (Ho et al. 2020, eq. 15), v-prediction (Salimans and Ho 2022, appendix D)
and rectified flow (Liu et al. 2022).

Legend:
    x_t         the network's input, alpha x0 + sigma eps
    alpha_bar   cumulative signal level of a discrete diffusion schedule
    s           noise level of a flow schedule, 0 (clean) to 1 (noise)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import sqrt
from types import MappingProxyType

import torch
from torch import Tensor

NUM_TIMESTEPS = 1000


@dataclass(frozen=True)
class NoiseLevel:
    """A point of a noise schedule: x_t = alpha x0 + sigma eps."""

    alpha: float
    """Weight of the signal, in (0, 1]."""
    sigma: float
    """Weight of the unit noise, in [0, 1]."""

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio, (alpha / sigma)^2."""
        return (self.alpha / self.sigma) ** 2


@cache
def alpha_bars(beta_start: float, beta_end: float) -> tuple[float, ...]:
    """Cumulative signal levels of the "scaled linear" schedule, in float64.

    beta_t = (sqrt(beta_start) + t/999 (sqrt(beta_end) - sqrt(beta_start)))^2, t = 0..999;
    alpha_bar_t = prod_{u <= t} (1 - beta_u)      [Rombach et al. 2022, Stable Diffusion configs]
    """
    betas = torch.linspace(
        beta_start**0.5, beta_end**0.5, NUM_TIMESTEPS, dtype=torch.float64
    ).square()
    return tuple((1 - betas).cumprod(0).tolist())


def diffusion_level(t: int, beta_start: float, beta_end: float) -> NoiseLevel:
    """Noise level of index `t` (0..999) of a variance-preserving schedule.

    Raises:
        ValueError: if t is outside 0..999.
    """
    _check_timestep(t)
    alpha_bar = alpha_bars(beta_start, beta_end)[t]
    return NoiseLevel(sqrt(alpha_bar), sqrt(1 - alpha_bar))


def flow_level(t: int) -> NoiseLevel:
    """Noise level s = t/1000 of a flow schedule: x_s = (1 - s) x0 + s eps, no shift applied.

    Raises:
        ValueError: if t is outside 0..999.
    """
    _check_timestep(t)
    s = t / NUM_TIMESTEPS
    return NoiseLevel(1 - s, s)


def equal_snr_flow_timestep(level: NoiseLevel) -> float:
    """Flow timestep 1000 s with the signal-to-noise ratio of `level`: s = sigma / (alpha + sigma).

    Gives 363.8 for SD2's t = 200 (alpha_bar 0.7537).
    """
    return NUM_TIMESTEPS * level.sigma / (level.alpha + level.sigma)


def flow_input_scale(s: float) -> float:
    """K = sqrt((1-s)^2 + s^2): the standard deviation that a flow network expects at level s.

    A scaled latent has standard deviation 1; a flow x_s of independent unit signal and noise has
    standard deviation k. So x_t = k z. Equal to 1/(sqrt(alpha_bar) + sqrt(1-alpha_bar)) at equal
    signal-to-noise ratio.
    """
    return sqrt((1 - s) ** 2 + s**2)


Conversion = Callable[[Tensor, Tensor, NoiseLevel], Tensor]


@dataclass(frozen=True)
class Prediction:
    """One kind of network output."""

    name: str
    """Its name in weight files."""
    modelspec: str
    """Its name in the ModelSpec metadata."""
    timestep: int
    """Default timestep of the step; weights can set another."""
    timesteps: range
    """The timesteps that a step can have."""
    x0: Conversion
    """(x_t, output, level) -> the clean latent that the output implies; same shape and dtype, not
    clamped."""
    output: Conversion
    """(x_t, x0, level) -> the output that implies x0: the inverse of `x0` (level.sigma > 0)."""
    input_scale: Callable[[NoiseLevel], float]
    """Default k of x_t = k z at a noise level; weights can set another."""

    def __repr__(self) -> str:
        return self.name


EPS = Prediction(
    name="eps",
    modelspec="epsilon",
    timestep=200,  # HYPIR's released configuration
    timesteps=range(NUM_TIMESTEPS),
    x0=lambda x_t, output, level: (x_t - level.sigma * output) / level.alpha,
    output=lambda x_t, x0, level: (x_t - level.alpha * x0) / level.sigma,
    input_scale=lambda level: 1.0,
)
"""The noise: x_t = alpha x0 + sigma output."""

V = Prediction(
    name="v",
    modelspec="v",
    timestep=EPS.timestep,
    timesteps=EPS.timesteps,
    x0=lambda x_t, output, level: level.alpha * x_t - level.sigma * output,
    output=lambda x_t, x0, level: (level.alpha * x_t - x0) / level.sigma,
    input_scale=EPS.input_scale,
)
"""v = alpha eps - sigma x0 of a variance-preserving schedule."""

FLOW = Prediction(
    name="flow",
    modelspec="flow",
    # Noise level 0.364: the signal-to-noise ratio of alpha_bar_200 = 0.7537 within 0.2 %.
    timestep=364,
    timesteps=range(1, NUM_TIMESTEPS),  # at 0 there is no noise and the step does nothing
    x0=lambda x_t, output, level: x_t - level.sigma * output,
    output=lambda x_t, x0, level: (x_t - x0) / level.sigma,
    input_scale=lambda level: flow_input_scale(level.sigma),
)
"""The velocity eps - x0 of a flow schedule, sigma = s."""

PREDICTIONS: Mapping[str, Prediction] = MappingProxyType({p.name: p for p in (EPS, V, FLOW)})
"""All predictions by the name that weight files carry."""


def _check_timestep(t: int) -> None:
    if not 0 <= t < NUM_TIMESTEPS:
        raise ValueError(f"a timestep must be between 0 and {NUM_TIMESTEPS - 1}, got {t}")
