"""Z-Image: a transformer with Qwen3's text, in the host a kind of Lumina 2.

What the host does for the family, so that nothing is left to do here: it tells the network the
clean share 1 - s of the noise level s and turns the sign of its output, which points to the clean
picture; it fills up text and picture to multiples of 32 tokens with learned ones, so one more
token for the richness counts as text wherever it stands.
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
