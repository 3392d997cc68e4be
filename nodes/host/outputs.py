"""Check that the output of a network or an autoencoder is finite."""

import torch
from torch import Tensor

from ...hypir.image import count_not_finite
from ...hypir.tiling import CELL_PX, Tile

NETWORK_REMEDY = (
    "run the model in another precision (another weight_dtype in Load Diffusion Model, or start "
    "ComfyUI with --bf16-unet or --fp32-unet)"
)
VAE_REMEDY = "run the VAE in another precision (start ComfyUI with --fp32-vae or --bf16-vae)"
FULL_PRECISION_REMEDY = (
    "this is full precision, so the file or a node that patches the model is at fault: download "
    "the file again, or remove other nodes one by one"
)


def check_output(
    result: Tensor, tiles: list[Tile], stage: str, maker: str, precision: torch.dtype, remedy: str
) -> Tensor:
    """Return the result of one call unchanged, if all of it is finite.

    It takes one sum over the call's tiles on their device; the image is not read again.

    Args:
        result: (n, C, h, w), one entry per tile.
        tiles: the tiles of the call.
        stage: encode, step or decode.
        maker: readable name of what computed it.
        precision: the precision of the computation.
        remedy: advice against an overflow.

    Raises:
        ValueError: if a value is NaN or infinite.
    """
    if not count_not_finite(result):
        return result
    tile, part = next((t, r) for t, r in zip(tiles, result, strict=True) if count_not_finite(r) > 0)
    image = f" of image {tile.item + 1}" if tile.item else ""
    if precision in (torch.float32, torch.float64):
        remedy = FULL_PRECISION_REMEDY
    raise ValueError(
        f"HYPIR {stage}: {count_not_finite(part)} of {part.numel()} values from {maker} are NaN or "
        f"infinite, in the tile of {tile.width * CELL_PX}x{tile.height * CELL_PX} px at "
        f"({tile.x * CELL_PX}, {tile.y * CELL_PX}){image}, computed in "
        f"{str(precision).removeprefix('torch.')}; {remedy}"
    )
