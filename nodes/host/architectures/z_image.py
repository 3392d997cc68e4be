"""Z-Image: a transformer with Qwen3's text, in the host a variant of Lumina 2.

The host already does the rest for this family. It gives the network 1 - s instead of the noise
level s, and it flips the sign of the output, which points to the clean image. It pads text and
image to multiples of 32 tokens with learned tokens, so an extra richness token counts as text at
any position.
"""

import comfy.model_base
import comfy.supported_models

from ....hypir.priors import Z_IMAGE
from .architecture import Architecture, TextWidths


def _is_of(base) -> bool:
    return (
        type(base) is comfy.model_base.Lumina2
        and isinstance(base.model_config, comfy.supported_models.ZImage)
        and base.model_config.unet_config.get("in_channels") == 16
    )


Z_IMAGE_6B = Architecture(
    priors=(Z_IMAGE,),
    is_of=_is_of,
    text_widths=lambda base: TextWidths(base.model_config.unet_config["cap_feat_dim"], 0),
)
