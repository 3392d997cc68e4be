"""Families of networks that HYPIR trains on: one entry each, in a file of its own.

The entries contain everything that differs between families; no other code distinguishes them. To
add a family: a file here, its name in ENTRIES, and a record in hypir.priors.
"""

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from hypir.priors import Prior

from .architecture import Architecture, Condition
from .flux import Flux
from .sd3 import StableDiffusion3
from .sdxl import StableDiffusionXL
from .stable_diffusion import StableDiffusion
from .z_image import ZImage

__all__ = ["ARCHITECTURES", "Architecture", "Condition", "recognise"]

ENTRIES = (StableDiffusion(), StableDiffusionXL(), StableDiffusion3(), Flux(), ZImage())
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {prior.name: entry for entry in ENTRIES for prior in entry.priors}
)
"""The entry of a prior, by the prior's name."""


def recognise(network: nn.Module, scheduler: Mapping) -> Prior | None:
    """The prior of a diffusers network with its scheduler's config, if any."""
    found = (entry.recognise(network, scheduler) for entry in ENTRIES)
    return next((prior for prior in found if prior is not None), None)
