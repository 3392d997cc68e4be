"""Contact sheets: images in rows with captions, small enough for the repository."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Row = list[tuple[np.ndarray, str]]  # images and their captions

CAPTION, GAP, FONT = 22, 6, 14
EDGE = (160, 160, 160)  # border of each crop, so that a white one is visible on the white page
LEVEL_STEPS = (1, 4, 8)  # colours are rounded to these steps until the files are small enough


def crop(picture: np.ndarray, side: int) -> np.ndarray:
    """The middle of an image (H, W, 3); a smaller image is padded with white."""
    height, width = picture.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    part = picture[top : top + side, left : left + side]
    missing = (side - part.shape[0], side - part.shape[1])
    return np.pad(part, [(0, missing[0]), (0, missing[1]), (0, 0)], constant_values=255)


def contact_sheet(rows: Sequence[Row], side: int) -> Image.Image:
    """Crops of `side` px in rows, each with its caption under it.

    Raises:
        ValueError: if a caption is wider than its crop.
    """
    font = ImageFont.load_default(size=FONT)
    columns = max(len(row) for row in rows)
    size = (columns * (side + GAP) + GAP, len(rows) * (side + CAPTION + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        for j, (picture, caption) in enumerate(row):
            x, y = GAP + j * (side + GAP), GAP + i * (side + CAPTION + GAP)
            if draw.textlength(caption, font) > side:
                raise ValueError(f"the caption {caption!r} must not be wider than its picture")
            draw.rectangle((x - 1, y - 1, x + side, y + side), outline=EDGE)
            sheet.paste(Image.fromarray(crop(picture, side)), (x, y))
            middle = (x + side / 2, y + side + CAPTION / 2)
            draw.text(middle, caption, fill="black", font=font, anchor="mm")
    return sheet


def png(sheet: Image.Image, step: int) -> bytes:
    """A sheet with its levels rounded to multiples of a step (white stays white)."""
    levels = np.asarray(sheet).astype(np.int32)
    rounded = ((levels + step // 2) // step * step).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(rounded).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def encode(sheets: Mapping[str, Image.Image], most_bytes: int) -> dict[str, bytes]:
    """PNG files by name, with colours rounded until the total size is small enough.

    Raises:
        ValueError: if they are too large with the coarsest colours.
    """
    for step in LEVEL_STEPS:
        files = {name: png(sheet, step) for name, sheet in sheets.items()}
        size = sum(map(len, files.values()))
        if size <= most_bytes:
            return files
    raise ValueError(f"the pictures must not exceed {most_bytes} bytes, got {size}")
