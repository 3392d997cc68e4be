"""The host's `model_sampling` during the step: its formula is the prior's, and so is the timestep.

Nodes after the loader may put another table there (zero terminal SNR, continuous, cascade, another
shift). The step's noise level does not come from it; what the network is told as t must not either.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_base
import torch
from torch import Tensor

from ...hypir.one_step import OneStep

PROBES = ((1.0, 0.0), (0.0, 1.0), (0.7, -1.3))
"""(x_t, output) of the network by which a formula is told."""


def input_factor(sampling, sigma: Tensor) -> Tensor:
    """By what the host multiplies a latent before the network sees it; linear in the latent."""
    return sampling.calculate_input(sigma[:1], torch.ones(1, 1, 1, 1, device=sigma.device))


def check_formula(sampling, step: OneStep, sigma: Tensor) -> None:
    """Raises ValueError unless the host turns an output into x0 by the prior's formula."""
    x_t, output = (
        torch.tensor([p[i] for p in PROBES], device=sigma.device).reshape(-1, 1, 1, 1)
        for i in (0, 1)
    )
    seen = x_t / input_factor(sampling, sigma)
    got = sampling.calculate_denoised(sigma[:1].expand(len(PROBES)), output, seen)
    want = step.prediction.x0(x_t, output, step.model_level)
    if not torch.allclose(got, want, atol=1e-4, rtol=1e-4):
        raise ValueError(
            f"a node on the model put another kind of sampling there "
            f"({' and '.join(b.__name__ for b in type(sampling).__bases__)}), whose formula is not "
            f"that of {step.prediction} prediction; remove that node"
        )


@contextmanager
def prior_timestep(guider, sigma: Tensor, timestep: int, flow: bool) -> Iterator[None]:
    """Inside, the network is told the prior's own t for this sigma, whatever table the host holds.

    Args:
        guider: of the run.
        sigma: of the step, (1,).
        timestep: of the step, for a diffusion prior.
        flow: whether the prior counts noise levels instead.
    """
    base = guider.inner_model
    if flow:  # t is the noise level, in the unit of the model's own sampling: 1 or 1000
        own = comfy.model_base.model_sampling(base.model_config, base.model_type)
        told = own.timestep(sigma).float()
    else:
        told = torch.full_like(sigma, float(timestep))
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
    """What turns a sigma into a timestep: the model, its clones on other GPUs, ControlNets."""
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
