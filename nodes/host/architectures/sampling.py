"""The host's model sampling and noise levels for each kind of prediction."""

from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_base
import comfy.model_sampling as kinds
import torch
from torch import Tensor

from ....hypir.one_step import OneStep
from ....hypir.predictions import EPS, FLOW, NoiseLevel, Prediction, V


@dataclass(frozen=True)
class Sampling:
    """One of the host's kinds of model sampling."""

    prediction: Prediction
    kind: type
    """The host's class in a MODEL's `model_sampling`."""
    sigma: Callable[[NoiseLevel], float]
    """Converts a noise level into the host's sigma."""
    told: Callable[[object, Tensor, int], Tensor]
    """(the host's base model, sigma (1,), timestep) -> what the network is told, (1,)."""


def _noise_to_signal(level: NoiseLevel) -> float:
    return level.sigma / level.alpha


def _noise_level(level: NoiseLevel) -> float:
    return level.sigma


def _told_timestep(base, sigma: Tensor, timestep: int) -> Tensor:
    return torch.full_like(sigma, float(timestep))


def _told_level(base, sigma: Tensor, timestep: int) -> Tensor:
    """The noise level, in the unit of the model's own sampling: 1 or 1000."""
    own = comfy.model_base.model_sampling(base.model_config, base.model_type)
    return own.timestep(sigma).float()


# The host's v inherits from its eps, so it comes first.
SAMPLINGS = (
    Sampling(V, kinds.V_PREDICTION, _noise_to_signal, _told_timestep),
    Sampling(EPS, kinds.EPS, _noise_to_signal, _told_timestep),
    Sampling(FLOW, kinds.CONST, _noise_level, _told_level),
)

# Other kinds that inherit from these; older hosts lack the last one.
_OTHERS = tuple(
    getattr(kinds, name) for name in ("EDM", "X0", "IMG_TO_IMG_FLOW") if hasattr(kinds, name)
)


def prediction_of(model_sampling) -> Prediction | None:
    """The prediction of a MODEL's network; None for the host's other kinds."""
    if isinstance(model_sampling, _OTHERS):
        return None
    return next((s.prediction for s in SAMPLINGS if isinstance(model_sampling, s.kind)), None)


def host_sigma(step: OneStep) -> float:
    """The model level of a step as the host's sigma.

    It does not use the host's own `sigma(t)`, because a shift node changes that.
    """
    return _sampling(step.prediction).sigma(step.model_level)


def told_timestep(prediction: Prediction, base, sigma: Tensor, timestep: int) -> Tensor:
    """What a network is told (1,) at a sigma (1,), by its own sampling and not a node's."""
    return _sampling(prediction).told(base, sigma, timestep)


def _sampling(prediction: Prediction) -> Sampling:
    return next(s for s in SAMPLINGS if s.prediction is prediction)
