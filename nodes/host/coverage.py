"""Where conditions apply: a place without any would silently become flat grey.

At every place, the host sums the predictions of all conditions and divides by their weights. Where
no condition applies, the result is zero. A condition applies inside its area, where its mask is not
zero, and at the noise levels of its timestep range.
"""

import logging

import torch
from torch import Tensor

from .conditions import Conditions

log = logging.getLogger(__name__)


def check_covered(
    groups: list[list[dict] | None], x: Tensor, sigma: float, wanted: Tensor | None
) -> bool:
    """Whether the host has anything to compute for the requested predictions.

    Args:
        groups: conditions of every prediction of a call (positive, negative ...), None = not
            requested.
        x: the network's input (n, C, h, w).
        sigma: noise level in the host's unit.
        wanted: (h, w), where the result is used; None = everywhere.

    Raises:
        ValueError: if a prediction would be empty where it is used.
    """
    asked = [group for group in groups if group is not None]
    if not asked:
        raise ValueError(
            "a node on the model requests a prediction without any conditioning; connect a "
            "negative prompt through HYPIR Sampler and CFG Guider, or remove that node"
        )
    for group in asked:
        active = [c for c in group if is_active(c, sigma)]
        if group and not active:
            raise ValueError(
                f"no conditioning is active at the noise level of the step (sigma {sigma:.3f}): "
                "its timestep range excludes it; remove the timestep range or widen it"
            )
        covered = _covered(active, x)
        if covered is None:
            continue
        if wanted is not None and wanted.shape == covered.shape[-2:]:
            covered = covered | ~wanted
        if not bool(covered.all()):
            raise ValueError(
                "the conditioning leaves a part of the image without a prompt; add a prompt that "
                "covers the whole image"
            )
    return any(is_active(c, sigma) for group in asked for c in group)


def is_active(condition: dict, sigma: float) -> bool:
    """Whether the condition's timestep range includes this noise level."""
    start, end = condition.get("timestep_start"), condition.get("timestep_end")
    return not (start is not None and sigma > start) and not (end is not None and sigma < end)


def log_idle(conditions: Conditions, sigma: float) -> None:
    """Log one line for conditions that have no effect although others apply."""
    for name, group in conditions.items():
        out_of_range = sum(not is_active(c, sigma) for c in group if "clip_start_percent" not in c)
        if 0 < out_of_range < len(group):
            log.warning(
                "HYPIR step: %d of %d %s conditions are not active at the noise level of the step "
                "(sigma %.3f) and have no effect; their timestep range excludes it",
                *(out_of_range, len(group), name, sigma),
            )
        empty = sum("mask" in c and not bool(c["mask"].any()) for c in group)
        if 0 < empty < len(group):
            log.warning(
                "HYPIR step: %d of %d %s conditions have an empty mask and no effect",
                *(empty, len(group), name),
            )
        if any(_is_idle_control(c.get("control"), sigma) for c in group):
            log.warning(
                "HYPIR step: a ControlNet is not active at the noise level of the step (sigma "
                "%.3f) and has no effect; widen its start and end percent",
                sigma,
            )


def _is_idle_control(control, sigma: float) -> bool:
    while control is not None:
        levels = getattr(control, "timestep_range", None)
        if levels is not None and not levels[1] <= sigma <= levels[0]:
            return True
        control = getattr(control, "previous_controlnet", None)
    return False


def _covered(conditions: list[dict], x: Tensor) -> Tensor | None:
    """(n, h, w): where any of them applies; None = everywhere."""
    covered = torch.zeros((x.shape[0], *x.shape[-2:]), dtype=torch.bool, device=x.device)
    for condition in conditions:
        if condition.get("strength", 1.0) == 0:
            continue
        area, mask = condition.get("area"), condition.get("mask")
        if "default" in condition or (area is None and mask is None):
            return None
        if mask is not None and condition.get("mask_strength", 1.0) == 0:
            continue
        part = torch.ones_like(covered) if mask is None else (mask != 0).to(covered.device)
        part = part[: len(covered)]
        if area is not None:
            height, width, y, left = area
            inside = torch.zeros_like(covered)
            inside[..., y : y + height, left : left + width] = True
            part = part & inside
        covered |= part
    return covered
