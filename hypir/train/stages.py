"""The stages by name."""

from collections.abc import Callable

from .adversarial_stage import AdversarialStage
from .autoencoder_stage import AutoencoderStage
from .diffusion_stage import DiffusionStage
from .encoder_stage import EncoderStage
from .loop import Stage

MAKERS: dict[str, Callable[..., Stage]] = {
    "autoencoder": AutoencoderStage,
    "diffusion": DiffusionStage,
    "encoder": EncoderStage,
    "adversarial": AdversarialStage,
}
