"""torch's resizes of large images, some rows or columns at a time."""

import torch.nn.functional as F
from torch import Tensor

from .blocks import SIDE_PX, OnBlock, tell


def resize(
    picture: Tensor,
    size: tuple[int, int],
    mode: str,
    antialias: bool,
    on_block: OnBlock | None = None,
) -> Tensor:
    """Resized to (height, width) by torch's area, bilinear or bicubic.

    All three are separable: a large picture is resized along its rows, some rows at once, then
    along its columns.
    """
    options = {} if mode == "area" else {"align_corners": False, "antialias": antialias}
    height, width = picture.shape[-2:]
    if max(height * width, size[0] * size[1]) <= SIDE_PX**2:
        tell(on_block)
        return F.interpolate(picture, size, mode=mode, **options)
    wide = picture.new_empty(*picture.shape[:2], height, size[1])
    for rows in _slices(height, SIDE_PX**2 // max(width, size[1])):
        part = picture[..., rows, :]
        wide[..., rows, :] = F.interpolate(part, (part.shape[-2], size[1]), mode=mode, **options)
        tell(on_block)
    result = picture.new_empty(*picture.shape[:2], *size)
    for columns in _slices(size[1], SIDE_PX**2 // max(height, size[0])):
        part = wide[..., columns]
        result[..., columns] = F.interpolate(part, (size[0], part.shape[-1]), mode=mode, **options)
        tell(on_block)
    return result


def _slices(length: int, step: int) -> list[slice]:
    step = max(step, 1)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
