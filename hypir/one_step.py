"""The one step: a low-quality latent is taken as x_t and turned into the clean x0.

Source: HYPIR (arXiv 2507.20590); the conversions are DDPM (Ho et al. 2020, eq. 15), v-prediction
(Salimans and Ho 2022, appendix D) and rectified flow (Liu et al. 2022).

Legend:
    z           scaled latent of the low-quality image (B, C, h, w)
    x_t         what the network sees, x_t = k z with the input scale k
    alpha_bar   cumulative signal level of a discrete diffusion schedule
    s           noise level of a flow schedule, 0 (clean) to 1 (noise)
    m, c        the model level (what the network is told) and the coefficient level (what turns
                its output into x0); equal unless asked otherwise
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import isclose, sqrt

import torch
from torch import Tensor

from .tiling import Tile, TilePlan, run_tiles

PREDICTIONS = ("eps", "v", "flow")
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

    A scaled latent has standard deviation 1, a flow x_s of independent unit signal and noise has k;
    so x_t = k z. Equal to 1/(sqrt(alpha_bar) + sqrt(1-alpha_bar)) at equal signal-to-noise ratio.
    """
    return sqrt((1 - s) ** 2 + s**2)


def predict_x0(prediction: str, x_t: Tensor, output: Tensor, level: NoiseLevel) -> Tensor:
    """Clean latent implied by a network output.

    eps:  x0 = (x_t - sigma output) / alpha
    v:    x0 = alpha x_t - sigma output
    flow: x0 = x_t - sigma output, sigma = s

    Args:
        prediction: one of PREDICTIONS.
        x_t: what the network saw (B, C, h, w).
        output: what it returned, same shape.
        level: the level that turns output into x0.

    Returns:
        x0, same shape and dtype, not clamped.

    Raises:
        ValueError: if `prediction` is unknown.
    """
    if prediction == "eps":
        return (x_t - level.sigma * output) / level.alpha
    if prediction == "v":
        return level.alpha * x_t - level.sigma * output
    if prediction == "flow":
        return x_t - level.sigma * output
    raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}")


def output_of_x0(prediction: str, x_t: Tensor, x0: Tensor, level: NoiseLevel) -> Tensor:
    """Network output that gives `x0` at `level`: the inverse of predict_x0 (level.sigma > 0)."""
    if prediction == "eps":
        return (x_t - level.alpha * x0) / level.sigma
    if prediction == "v":
        return (level.alpha * x_t - x0) / level.sigma
    if prediction == "flow":
        return (x_t - x0) / level.sigma
    raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}")


@dataclass(frozen=True)
class OneStep:
    """Everything that fixes the one step, apart from the network."""

    prediction: str
    """What the network predicts, one of PREDICTIONS."""
    model_level: NoiseLevel
    """m, what the network is told."""
    coefficient_level: NoiseLevel
    """c, what turns its output into x0."""
    input_scale: float = 1.0
    """k of x_t = k z."""


def restore_tile(z: Tensor, predict: Callable[[Tensor], Tensor], step: OneStep) -> Tensor:
    """One step on latents that fit the network whole.

    Args:
        z: scaled latents (B, C, h, w).
        predict: x_t -> x0 at the model level (one call of the network and predict_x0).
        step: the levels and the input scale.

    Returns:
        Clean scaled latents at the coefficient level, same shape.
    """
    x_t = z if step.input_scale == 1.0 else step.input_scale * z
    x0 = predict(x_t)
    if _same_level(step.model_level, step.coefficient_level):
        return x0
    output = output_of_x0(step.prediction, x_t, x0, step.model_level)
    return predict_x0(step.prediction, x_t, output, step.coefficient_level)


def restore_latent(
    z: Tensor,
    predict: Callable[[Tensor, list[Tile]], Tensor],
    step: OneStep,
    plan: TilePlan,
    tile_batch: int = 1,
    mix_items: bool = True,
    on_batch: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """One step on latents of any size, tile by tile, blended.

    Args:
        z: scaled latents (B, C, h, w).
        predict: (x_t of some tiles (n, C, th, tw), those tiles) -> x0 at the model level.
        step: the levels and the input scale.
        plan: tiles over h x w.
        tile_batch: how many tiles one call of `predict` takes.
        mix_items: whether one call may hold tiles of several items of the batch.
        on_batch: called with (tiles done, tiles in all, result so far) after every call.

    Returns:
        Clean scaled latents, float32, same shape; exactly restore_tile's when one tile covers all.
    """
    out = torch.zeros(z.shape, dtype=torch.float32, device=z.device)

    def process(tiles: list[Tile]) -> Tensor:
        crops = torch.cat([tile.crop(z) for tile in tiles])
        return restore_tile(crops, lambda x_t: predict(x_t, tiles), step)

    run_tiles(plan, process, out, batch=tile_batch, mix_items=mix_items, on_batch=on_batch)
    return out


def _same_level(a: NoiseLevel, b: NoiseLevel) -> bool:
    return isclose(a.sigma, b.sigma, rel_tol=1e-9) and isclose(a.alpha, b.alpha, rel_tol=1e-9)


def _check_timestep(t: int) -> None:
    if not 0 <= t < NUM_TIMESTEPS:
        raise ValueError(f"a timestep must be between 0 and {NUM_TIMESTEPS - 1}, got {t}")
