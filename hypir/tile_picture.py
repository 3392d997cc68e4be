"""The tiles of a plan, drawn over the image."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .plan import Stage
from .tiling import CELL_PX, TilePlan

SHOWN_PX = 1024
"""Longest side of the drawing."""
COLORS = {"encode": (80, 160, 255), "step": (255, 160, 40), "decode": (90, 210, 110)}
SHADE = 0.35
"""Strength of the colour where tiles overlap."""
LETTER_PX = 20
GREY = 96
"""Level of the canvas if there is no image."""


def draw_tiles(stages: tuple[Stage, ...], size: tuple[int, int], image: Tensor | None) -> Tensor:
    """One drawing per stage: outlines of the tiles, overlaps shaded, the plan in words.

    Args:
        stages: those of plan_stages.
        size: (height, width) of the enlarged image in pixels.
        image: (H, W, 3) in [0, 1], None for a grey canvas.

    Returns:
        (stages, h, w, 3) float32 in [0, 1]; the longest side is at most SHOWN_PX.
    """
    scale = min(1.0, SHOWN_PX / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    if image is None:
        canvas = Image.new("RGB", (width, height), (GREY, GREY, GREY))
    else:
        levels = image.clamp(0, 1).mul(255).round().byte().cpu().numpy()
        canvas = Image.fromarray(levels).resize((width, height), Image.Resampling.BOX)
    drawn = [_draw(canvas, stage, scale) for stage in stages]
    return torch.from_numpy(np.stack(drawn)).float() / 255


def _draw(canvas: Image.Image, stage: Stage, scale: float) -> np.ndarray:
    color, plan = COLORS[stage.name], stage.tiles
    px = np.asarray(canvas, dtype=np.float32)
    shared = _shared(plan, canvas.height, canvas.width, scale)[..., None] * SHADE
    picture = Image.fromarray((px * (1 - shared) + np.float32(color) * shared).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for box in plan.boxes:
        tile = plan.tile(0, box)
        left, top = (v * CELL_PX * scale for v in (tile.x, tile.y))
        right, bottom = (
            min(limit, v * CELL_PX * scale) - 1
            for limit, v in (
                (picture.width, tile.x + tile.width),
                (picture.height, tile.y + tile.height),
            )
        )
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=2)
    text = f"{stage.name}: {plan.describe()}"
    font = ImageFont.load_default(LETTER_PX)
    place = pen.textbbox((8, 8), text, font)
    pen.rectangle((place[0] - 4, place[1] - 4, place[2] + 4, place[3] + 4), fill=(0, 0, 0))
    pen.text((8, 8), text, color, font)
    return np.asarray(picture)


def _shared(plan: TilePlan, height: int, width: int, scale: float) -> np.ndarray:
    """1 where two tiles or more cover a pixel of the drawing, otherwise 0."""
    counts = []
    for axis, length in ((plan.rows, height), (plan.columns, width)):
        cell = ((np.arange(length) + 0.5) / scale // CELL_PX).astype(int)
        counts.append(sum((cell >= s) & (cell < s + axis.tile) for s in axis.starts))
    return (np.outer(*counts) > 1).astype(np.float32)
