"""Preparation of a guider, before the host loads models and resolves conditions.

HYPIR Restore calls it for its own guider; for HYPIR Sampler, Load HYPIR LoRA adds it to the MODEL
as a wrapper. It checks and completes the conditions while a clear error is still possible, and
makes the host request memory for one call instead of the whole latent.
"""

from abc import abstractmethod

import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

KEY = "hypir"


class Prepared(comfy.samplers.Sampler):
    """A SAMPLER that prepares a guider before the host does."""

    @abstractmethod
    def prepare(self, guider, latent: Tensor) -> Tensor:
        """The noise to pass to the host, of which only the shape matters."""


def leave_door(patcher) -> None:
    """Add the preparation to a MODEL with HYPIR weights; other samplers are not affected."""
    if not patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _prepare)


def with_door(model_options: dict) -> dict:
    """A copy of a MODEL's options that includes the preparation."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    comfy.patcher_extension.add_wrapper_with_key(
        WrappersMP.OUTER_SAMPLE, KEY, _prepare, options, is_model_options=True
    )
    return options


def _prepare(executor, noise, latent_image, sampler, *args, **kwargs):
    if isinstance(sampler, Prepared):
        noise = sampler.prepare(executor.class_obj, latent_image)
    return executor(noise, latent_image, sampler, *args, **kwargs)
