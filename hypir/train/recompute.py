"""Gradient checkpointing: activations are computed again in the backward pass instead of kept."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .engine import Engine
from .generator import is_tiny

Contexts = Callable[[], tuple[AbstractContextManager, AbstractContextManager]]
CONTEXTS: ContextVar[Contexts] = ContextVar(
    "contexts", default=lambda: (nullcontext(), nullcontext())
)
"""Makes the contexts of the first computation and of the second; a plan has its own."""


def recompute(asked: Engine, network: nn.Module | None = None, vae: nn.Module | None = None):
    """Turn checkpointing on in what the engine's options name."""
    if network is not None and asked.gradient_checkpointing:
        network.enable_gradient_checkpointing(_recomputed)
    if vae is not None and asked.vae_checkpointing and not is_tiny(vae):
        vae.enable_gradient_checkpointing(_recomputed)


def _recomputed(block: nn.Module, *inputs: Tensor | None):
    return checkpoint(block.__call__, *inputs, use_reentrant=False, context_fn=CONTEXTS.get())
