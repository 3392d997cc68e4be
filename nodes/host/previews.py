"""The host's previews of the step: made from a small latent, and never a reason to fail."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from .memory import is_out_of_memory

log = logging.getLogger(__name__)

PREVIEW_CELLS = 64
"""Longest side of the latent for the host's preview: some previews decode all of it."""

Callback = Callable[[int, Tensor, Tensor, int], None]


def of_small(callback: Callback) -> Callback:
    """The host's callback with a reduced latent, so that the cost of a preview does not grow."""

    def show(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        small, longest = x0[:1], max(x0.shape[-2:])
        if longest > PREVIEW_CELLS:
            size = [max(1, round(s * PREVIEW_CELLS / longest)) for s in small.shape[-2:]]
            small = torch.nn.functional.interpolate(small, size, mode="area")
        callback(step, small, x, total)

    return show


def show(callback: Callback, step: int, x0: Tensor, z: Tensor, total: int) -> None:
    """Skip a preview that runs out of memory: it is no reason to use smaller tiles."""
    try:
        callback(step, x0, z, total)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.warning("HYPIR step: out of memory for the host's preview; continuing without it")
