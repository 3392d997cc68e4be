"""What the host's side must know about a family of base models: the form of an entry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....hypir.priors import Prior


@dataclass(frozen=True)
class TextWidths:
    """Widths of the text inputs of a MODEL: the prior's, unless it is a small model."""

    token: int
    pooled: int
    """0 = the model takes no pooled vector."""


@dataclass(frozen=True)
class Architecture:
    """One family of base models, as the host knows it.

    `base` below is the host's BaseModel, the `model` of a MODEL.
    """

    priors: tuple[Prior, ...]
    """The family's, told apart by prediction and latent format. How the host names their modules
    in a LoRA is Prior.lora_prefix."""
    is_of: Callable[[Any], bool]
    """Whether a base is of the family and takes nothing but a latent, a timestep and a text."""
    text_widths: Callable[[Any], TextWidths]
    """Of a base of the family."""
    longest_tile: Callable[[Any], int | None] = lambda base: None
    """Cells per side that a base of the family can take at all, None = any."""
