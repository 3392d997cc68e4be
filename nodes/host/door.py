"""The door that every way to the step passes before the host loads models and resolves conditions.

HYPIR Restore opens it for its own guider; for HYPIR Sampler, Load HYPIR LoRA leaves it on the
MODEL. There the conditions are checked and filled in while a sentence can still be said, and the
host is asked for the memory of a call rather than of the whole latent.
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
        """The noise to hand to the host, whose shape alone counts."""


def leave_door(patcher) -> None:
    """Put the door on a MODEL of ours; samplers of other kinds pass it as if it were not there."""
    if not patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _prepare)


def with_door(model_options: dict) -> dict:
    """Options of a MODEL, copied, with the door in them."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    comfy.patcher_extension.add_wrapper_with_key(
        WrappersMP.OUTER_SAMPLE, KEY, _prepare, options, is_model_options=True
    )
    return options


def _prepare(executor, noise, latent_image, sampler, *args, **kwargs):
    if isinstance(sampler, Prepared):
        noise = sampler.prepare(executor.class_obj, latent_image)
    return executor(noise, latent_image, sampler, *args, **kwargs)
