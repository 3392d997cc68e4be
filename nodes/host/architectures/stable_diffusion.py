"""Stable Diffusion 2: a UNet with the text of OpenCLIP-H."""

import comfy.model_base
import comfy.supported_models

from ....hypir.priors import SD2, SD2_V
from .architecture import Architecture, TextWidths


def _is_of(base) -> bool:
    config = base.model_config.unet_config
    return (
        type(base) is comfy.model_base.BaseModel
        and isinstance(base.model_config, comfy.supported_models.SD20)
        and config.get("adm_in_channels") is None  # unCLIP models have one
        and config.get("in_channels")
        == 4  # inpainting models have 9, depth models 5, the upscaler 7
    )


STABLE_DIFFUSION = Architecture(
    priors=(SD2, SD2_V),
    is_of=_is_of,
    text_widths=lambda base: TextWidths(base.model_config.unet_config["context_dim"], 0),
)
