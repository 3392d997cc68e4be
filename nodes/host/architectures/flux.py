"""FLUX.1: a transformer with T5's text, CLIP's pooled text and a distilled guidance."""

import comfy.model_base
import comfy.supported_models

from ....hypir.priors import FLUX
from .architecture import Architecture, TextWidths


def _is_of(base) -> bool:
    return (
        type(base) is comfy.model_base.Flux
        and isinstance(base.model_config, comfy.supported_models.Flux)
        and base.model_config.unet_config.get("in_channels")
        == 16  # Fill, Canny and Depth take more channels
    )


def _text_widths(base) -> TextWidths:
    config = base.model_config.unet_config
    return TextWidths(config["context_in_dim"], config["vec_in_dim"])


FLUX_1 = Architecture(priors=(FLUX,), is_of=_is_of, text_widths=_text_widths)
