"""Where autocast must not act: float autoencoders, losses, and backbones with a precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_OFF: ContextVar[bool] = ContextVar("off", default=False)


@contextmanager
def no_autocast(device: torch.device, when: bool = True) -> Iterator[None]:
    """Within, everything is computed in the precision of its inputs."""
    if not when or not torch.amp.is_autocast_available(device.type):
        token = _OFF.set(_OFF.get() or when)  # on the meta device a plan looks here
        try:
            yield
        finally:
            _OFF.reset(token)
        return
    with torch.autocast(device.type, enabled=False):
        yield


def is_half(device: torch.device) -> bool:
    """Whether autocast to fp16 is on."""
    kind = device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return on and torch.get_autocast_dtype(kind) == torch.float16


def is_off() -> bool:
    """Whether no_autocast is in effect on the meta device."""
    return _OFF.get()
