"""Stable Diffusion XL: a UNet with two CLIP texts, a pooled text and the image sizes."""

import comfy.model_base

from ....hypir.priors import SDXL
from .architecture import Architecture, TextWidths

NUM_SIZES, SIZE_WIDTH = 6, 256
"""Its vector contains the pooled text and an embedding of six sizes."""


def _is_of(base) -> bool:
    in_channels = base.model_config.unet_config.get("in_channels")
    return type(base) is comfy.model_base.SDXL and in_channels == 4  # inpainting models have 9


def _text_widths(base) -> TextWidths:
    config = base.model_config.unet_config
    return TextWidths(config["context_dim"], config["adm_in_channels"] - NUM_SIZES * SIZE_WIDTH)


STABLE_DIFFUSION_XL = Architecture(priors=(SDXL,), is_of=_is_of, text_widths=_text_widths)
