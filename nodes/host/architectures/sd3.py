"""Stable Diffusion 3 and 3.5: a transformer with a position table."""

import comfy.model_base

from ....hypir.priors import SD3
from .architecture import Architecture, TextWidths


def _text_widths(base) -> TextWidths:
    config = base.model_config.unet_config
    embedder = config["context_embedder_config"]["params"]
    return TextWidths(embedder["in_features"], config["adm_in_channels"])


def _longest_tile(base) -> int | None:
    """The position table has (side, side) patches; larger tiles fail in the host."""
    network = base.diffusion_model
    side = network.pos_embed_max_size
    return None if side is None else side * network.x_embedder.patch_size[0]


STABLE_DIFFUSION_3 = Architecture(
    priors=(SD3,),
    is_of=lambda base: type(base) is comfy.model_base.SD3,
    text_widths=_text_widths,
    longest_tile=_longest_tile,
)
