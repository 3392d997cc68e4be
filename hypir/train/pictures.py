"""Picture files as people have them: read right, or refused in one sentence that names the file.

Training, validation, `evaluate`, `caption` and `restore` all read through here. What comes out is
upright and in sRGB, whatever the file's depth, colours, orientation and profile. Files of 8 bits
are Pillow's, bit for bit; those with more bits a channel, of which Pillow keeps 8, are decoded in
deep_pictures.py.

Left as it is: a picture without a profile is taken for sRGB, and so is one whose profile is broken
or belongs to other colours, as viewers do. Of a TIFF with several pages the first full-size one
counts; of an animation no frame is more meant than another, so it is refused.
"""

import io
import logging
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .color_profiles import bytes_in_srgb
from .deep_pictures import decode_deep, is_deep, is_tiff

log = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2"}
SUFFIXES |= {".avif", ".jpe", ".ppm", ".pgm", ".pnm", ".tga"}
OTHER_SUFFIXES = {".heic", ".heif", ".jxl", ".psd", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef"}
OTHER_SUFFIXES |= {".arw", ".raf", ".orf", ".rw2", ".svg", ".pdf"}
"""Pictures to people, but not to this reader: named when a folder holds some."""
MOVING = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats whose frames are an animation; others hold a preview or more pages beside the picture."""
REDUCED_PAGE = 254, 1
"""Tag and bit of a TIFF's page that is a smaller copy of another (TIFF 6.0, NewSubfileType)."""


class Picture(NamedTuple):
    """What a file shows."""

    colors: np.ndarray
    """(H, W, 3) sRGB, upright: uint8, or float32 in [0, 1] if the file has more than 8 bits."""
    alpha: np.ndarray | None
    """(H, W) opacity in the same type, None if the file has none."""
    profile: bytes | None = None
    """ICC profile of the colours if they were left as the file has them; None for sRGB."""


def list_pictures(place: Path) -> list[Path]:
    """Pictures below a folder, sorted by path, or the one file that is named.

    Linked folders are entered, each once, so links may go in circles. What begins with a dot is
    hidden and no picture (macOS keeps `._photo.jpg` beside a photo on foreign disks). Pictures of
    kinds that cannot be read are counted in the log.
    """
    if place.is_file():
        return [place]
    entered: set[tuple[int, int]] = set()
    found, others = [], Counter()

    def complain(error: OSError) -> None:
        log.warning("cannot list the folder %s (%s); left out", error.filename, error.strerror)

    for folder, below, files in os.walk(place, onerror=complain, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            below.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        below[:] = sorted(d for d in below if not d.startswith(".") and d != "__MACOSX")
        for file in (Path(folder, name) for name in files if not name.startswith(".")):
            suffix = file.suffix.lower()
            if suffix in SUFFIXES and file.is_file():
                found.append(file)
            elif suffix in SUFFIXES and file.is_symlink():
                log.warning("the link %s leads nowhere; left out", file)
            others[suffix] += suffix in OTHER_SUFFIXES
    for suffix, count in sorted((+others).items()):
        log.warning("%s holds %d %s pictures, which cannot be read here", place, count, suffix)
    return sorted(found)


def read_picture(file: Path | bytes, name: str = "") -> np.ndarray:
    """Colours (H, W, 3) uint8 of a picture file, in sRGB and upright; alpha dropped.

    Args:
        file: its path, or its content.
        name: for messages; the path if there is one.

    Raises:
        ValueError: in one sentence with the name, if it cannot be read right.
    """
    return in_bytes(open_picture(file, name).colors)


def read_levels(file: Path | bytes, name: str = "") -> np.ndarray:
    """Colours (H, W, 3) float32 in [0, 1] at the depth of the file; otherwise as read_picture."""
    colors = open_picture(file, name).colors
    return colors.astype(np.float32) / 255 if colors.dtype == np.uint8 else colors


def in_bytes(levels: np.ndarray) -> np.ndarray:
    """Values in [0, 1] rounded to 0..255; bytes as they are."""
    return levels if levels.dtype == np.uint8 else (levels * 255).round().astype(np.uint8)


def open_picture(file: Path | bytes, name: str = "", in_srgb: bool = True) -> Picture:
    """Colours and alpha of a picture file.

    Args:
        file, name: as for read_picture.
        in_srgb: whether RGB of another profile becomes sRGB; else profile and numbers are left as
            they are, so that a program that writes both again changes nothing. Other colours always
            become sRGB.

    Raises:
        ValueError: as read_picture.
    """
    name = name or str(file)
    try:
        content = file if isinstance(file, bytes) else file.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be opened ({error.strerror})") from error
    if not content:
        raise ValueError(f"{name} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders; what matters is an error below
            return _decode(content, in_srgb)
    except MemoryError:
        raise
    except Exception as error:  # every decoder has its own
        raise ValueError(
            f"{name} must be a whole picture that can be read ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is cut off, damaged, or no picture of a known kind"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _decode(content: bytes, in_srgb: bool) -> Picture:
    try:
        opened = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        if not is_tiff(content):
            raise
        # colours in floating point, which Pillow does not know
        return Picture(*decode_deep(content, None, in_srgb))
    with opened:
        frames = getattr(opened, "n_frames", 1)
        if opened.format in MOVING and frames > 1:
            raise ValueError(f"it has {frames} frames; save the one that is meant by itself")
        if opened.format == "TIFF":
            _seek_full_size(opened, frames)
        if is_deep(opened, content):
            return Picture(*decode_deep(content, opened, in_srgb))
        opened.load()
        return _of_pillow(ImageOps.exif_transpose(opened), in_srgb)


def _seek_full_size(opened: Image.Image, frames: int) -> None:
    tag, reduced = REDUCED_PAGE
    for page in range(frames):
        opened.seek(page)
        if not opened.tag_v2.get(tag, 0) & reduced:
            return
    opened.seek(0)


def _of_pillow(seen: Image.Image, in_srgb: bool) -> Picture:
    """A loaded picture of at most 8 bits a channel."""
    profile = seen.info.get("icc_profile")
    if seen.mode == "La":  # grey times alpha; Pillow divides colours itself
        seen = seen.convert("LA")
    alpha = None
    if "A" in seen.getbands() or "transparency" in seen.info:
        seen = seen.convert("RGBA")
        alpha = np.array(seen.getchannel("A"))
    if seen.mode not in ("L", "CMYK"):
        seen = seen.convert("RGB")
    if profile and not in_srgb and seen.mode == "RGB":
        return Picture(np.array(seen), alpha, profile)
    colors = bytes_in_srgb(seen, profile) if profile else seen
    return Picture(np.array(colors.convert("RGB")), alpha)
