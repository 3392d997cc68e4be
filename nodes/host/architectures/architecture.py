"""The record that describes a family of base models on the host's side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....hypir.priors import Prior


@dataclass(frozen=True)
class TextWidths:
    """Widths of a MODEL's text inputs: those of the prior, except for small models."""

    token: int
    pooled: int
    """0 = the model takes no pooled vector."""


@dataclass(frozen=True)
class Architecture:
    """One family of base models on the host's side.

    `base` below is the host's BaseModel, the `model` of a MODEL.
    """

    priors: tuple[Prior, ...]
    """The priors of the family, distinguished by prediction and latent format. Prior.lora_prefix is
    the host's prefix for their modules in a LoRA."""
    is_of: Callable[[Any], bool]
    """Whether a base belongs to the family and takes only a latent, a timestep and a text."""
    text_widths: Callable[[Any], TextWidths]
    """Text widths of a base of the family."""
    longest_tile: Callable[[Any], int | None] = lambda base: None
    """Most cells per side that a base of the family supports, None = any."""
