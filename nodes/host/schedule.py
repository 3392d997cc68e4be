"""The host's `model_sampling` during the step: it must use the prior's formula and timestep.

Nodes after the loader can replace it (zero terminal SNR, continuous, cascade, another shift). The
step's noise level does not depend on it, and the timestep given to the network must not either.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ...hypir.one_step import OneStep
from ...hypir.predictions import Prediction
from .architectures import told_timestep

PROBES = ((1.0, 0.0), (0.0, 1.0), (0.7, -1.3))
"""A pair (x_t, output) of the network that identifies a formula."""


def input_factor(sampling, sigma: Tensor) -> Tensor:
    """The host's factor on a latent before the network; linear in the latent."""
    return sampling.calculate_input(sigma[:1], torch.ones(1, 1, 1, 1, device=sigma.device))


def check_formula(sampling, step: OneStep, sigma: Tensor) -> None:
    """Raise ValueError unless the host computes x0 with the prior's formula."""
    x_t, output = (
        torch.tensor([p[i] for p in PROBES], device=sigma.device).reshape(-1, 1, 1, 1)
        for i in (0, 1)
    )
    seen = x_t / input_factor(sampling, sigma)
    got = sampling.calculate_denoised(sigma[:1].expand(len(PROBES)), output, seen)
    want = step.prediction.x0(x_t, output, step.model_level)
    if not torch.allclose(got, want, atol=1e-4, rtol=1e-4):
        raise ValueError(
            "a node on the model replaced the sampling "
            f"({' and '.join(b.__name__ for b in type(sampling).__bases__)}), and its formula is "
            f"not that of {step.prediction} prediction; remove that node"
        )


@contextmanager
def prior_timestep(guider, sigma: Tensor, timestep: int, prediction: Prediction) -> Iterator[None]:
    """A context in which the network gets the prior's own t, for any table of the host.

    Args:
        guider: of the run.
        sigma: the step's sigma, (1,).
        timestep: the step's timestep.
        prediction: the prior's.
    """
    told = told_timestep(prediction, guider.inner_model, sigma, timestep)
    held = _holders(guider)
    before = [getattr(holder, name) for holder, name in held]
    try:
        for (holder, name), sampling in zip(held, before, strict=True):
            if not torch.allclose(sampling.timestep(sigma).float(), told, atol=1e-6, rtol=1e-6):
                setattr(holder, name, _with_timestep(sampling, told))
        yield
    finally:
        for (holder, name), sampling in zip(held, before, strict=True):
            setattr(holder, name, sampling)


def _holders(guider) -> list[tuple[object, str]]:
    """Everything that converts a sigma to a timestep: the model, its clones on other GPUs,
    ControlNets."""
    held = [(guider.inner_model, "model_sampling")]
    clones = guider.model_options.get("multigpu_clones", {}).values()
    held += [(c.model, "model_sampling") for c in clones if c.model is not guider.inner_model]
    todo = [c["control"] for group in guider.conds.values() for c in group if c.get("control")]
    seen = set()
    while todo:
        control = todo.pop()
        if control is None or id(control) in seen:
            continue
        seen.add(id(control))
        todo.append(getattr(control, "previous_controlnet", None))
        todo += getattr(control, "multigpu_clones", {}).values()
        if getattr(control, "model_sampling_current", None) is not None:
            held.append((control, "model_sampling_current"))
    return held


def _with_timestep(sampling, told: Tensor):
    view = copy.copy(sampling)
    view.timestep = lambda sigma: told.to(sigma.device).expand(sigma.shape)
    return view
