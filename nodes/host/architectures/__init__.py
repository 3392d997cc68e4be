"""The families of base models on the host's side, one entry each; all other code asks here."""

from ....hypir.priors import Prior
from .architecture import Architecture, TextWidths
from .flux import FLUX_1
from .sampling import host_sigma, prediction_of, told_timestep
from .sd3 import STABLE_DIFFUSION_3
from .sdxl import STABLE_DIFFUSION_XL
from .stable_diffusion import STABLE_DIFFUSION
from .z_image import Z_IMAGE_6B

ARCHITECTURES = (STABLE_DIFFUSION, STABLE_DIFFUSION_XL, STABLE_DIFFUSION_3, FLUX_1, Z_IMAGE_6B)

__all__ = ["ARCHITECTURES", "Architecture", "TextWidths", "detect", "host_sigma", "told_timestep"]


def detect(model) -> tuple[Architecture, Prior]:
    """The family and the prior of a MODEL, from its classes, prediction and latent format.

    Raises:
        ValueError: if HYPIR does not support the model.
    """
    base = model.model
    prediction = prediction_of(model.get_model_object("model_sampling"))
    for architecture in ARCHITECTURES:
        if architecture.is_of(base):
            for prior in architecture.priors:
                if prior.prediction is prediction and _has_latent_format(base, prior):
                    return architecture, prior
    known = "; ".join(prior.title for a in ARCHITECTURES for prior in a.priors)
    raise ValueError(
        f"HYPIR works on {known}, but this model is {_model_name(base)} with "
        f"{prediction.name if prediction else 'another'} prediction; load one of those"
    )


def _has_latent_format(base, prior: Prior) -> bool:
    latent = base.latent_format
    return (
        latent.latent_channels == prior.latent_channels
        and latent.latent_dimensions == 2
        and abs(latent.scale_factor - prior.latent_scale) < 1e-6
        and abs(getattr(latent, "shift_factor", 0.0) - prior.latent_shift) < 1e-6
    )


def _model_name(base) -> str:
    return f"{type(base.model_config).__name__} ({type(base).__name__})"
