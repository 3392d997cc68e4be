"""Pictures of more than 8 bits a channel: 16 and 32 bits, floating point, in any of their colours.

Pillow keeps the upper 8 bits of such colours, clips grey levels of 32 bits, and shows a negative
upside down; here tifffile and imagecodecs decode them.
"""

import io

import numpy as np
from PIL import Image

from .color_profiles import levels_in_srgb

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BITS_PER_SAMPLE, PROFILE, ORIENTATION = 258, 34675, 274
"""TIFF's tags."""
PHOTOMETRIC = {0: "L", 1: "L", 2: "RGB", 5: "CMYK", 8: "LAB"}
"""Pillow's names of what the samples of a TIFF mean (TIFF 6.0, PhotometricInterpretation)."""
MIN_IS_WHITE = 0
CHANNELS = {"L": 1, "RGB": 3, "CMYK": 4, "LAB": 3}
FLOAT_RANGE = -0.5, 1.5
"""Values of floating point that pass for [0, 1] with the overshoot of a filter."""


def is_tiff(content: bytes) -> bool:
    """Whether a file says that it is a TIFF."""
    return content.startswith(TIFF_STARTS)


def is_deep(opened: Image.Image, content: bytes) -> bool:
    """Whether a picture that Pillow has opened, not loaded, has more bits than it would keep."""
    if opened.format == "TIFF":
        return max(opened.tag_v2.get(BITS_PER_SAMPLE, (1,))) > 8
    if opened.format == "PNG":
        return content[24] == 16  # of the header
    if opened.format == "JPEG2000":
        return _jpeg2000_bits(content) > 8
    if opened.format == "AVIF":
        return _avif_bits(content) > 8
    return opened.mode.startswith("I") or opened.mode == "F"


def decode_deep(
    content: bytes, opened: Image.Image | None, in_srgb: bool
) -> tuple[np.ndarray, np.ndarray | None, bytes | None]:
    """Colours (H, W, 3) float32 in [0, 1], alpha (H, W) and profile of such a file.

    Args:
        content: of the file.
        opened: the same, opened by Pillow at the page that is meant; None if Pillow cannot.
        in_srgb: see pictures.open_picture.

    Raises:
        ValueError: with the reason alone.
    """
    try:
        import imagecodecs
        import tifffile
    except ImportError as error:
        raise ValueError(
            f"it has more than 8 bits a channel, which needs {error.name}; install it with pip"
        ) from error
    kind = "TIFF" if opened is None else opened.format
    alpha, profile = None, opened and opened.info.get("icc_profile")
    turn = 1 if opened is None else opened.getexif().get(ORIENTATION, 1)
    if kind == "TIFF":
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages[opened.tell() if opened is not None else 0]
            samples, mode, alpha = _of_page(page)
            profile = page.tags[PROFILE].value if PROFILE in page.tags else None
            turn = int(page.tags[ORIENTATION].value) if ORIENTATION in page.tags else 1
    elif kind in ("PNG", "JPEG2000", "AVIF"):
        decode, bits = {
            "PNG": (imagecodecs.png_decode, 16),
            "JPEG2000": (imagecodecs.jpeg2k_decode, _jpeg2000_bits(content)),
            "AVIF": (imagecodecs.avif_decode, _avif_bits(content)),
        }[kind]
        levels = _as_channels(decode(content)) / np.float32(2**bits - 1)
        samples = levels[..., : 1 if levels.shape[-1] < 3 else 3]
        alpha = levels[..., -1] if levels.shape[-1] in (2, 4) else None
        mode = "L" if samples.shape[-1] == 1 else "RGB"
    else:  # of the other formats Pillow keeps 16 bits of grey, or floating point
        white = 65535 if opened.mode.startswith("I") else None
        samples, mode = _levels(_as_channels(np.asarray(opened)), white), "L"
    kept = profile if profile and not in_srgb and mode == "RGB" else None
    colors = levels_in_srgb(samples, mode, None if kept else profile)
    return _upright(colors, turn), None if alpha is None else _upright(alpha, turn), kept


def _of_page(page) -> tuple[np.ndarray, str, np.ndarray | None]:
    """Samples (H, W, C) in [0, 1] (of LAB as they are), what they mean, and alpha."""
    mode = PHOTOMETRIC.get(int(page.photometric))
    if mode is None:
        raise ValueError(
            f"it is a TIFF of {getattr(page.photometric, 'name', page.photometric)} colours; save "
            f"it as RGB or grey"
        )
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if start + count > page.parent.filehandle.size:  # would come out as black
            raise ValueError("it is cut off")
    raw = page.asarray()
    if page.axes == "SYX":
        raw = np.moveaxis(raw, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise ValueError(f"it has the axes {page.axes} instead of height, width and colours")
    raw = _as_channels(raw)
    count = CHANNELS[mode]
    if mode == "LAB":
        if page.bitspersample != 16 or raw.dtype.kind == "f":
            raise ValueError("it is a LAB picture of other than 8 or 16 bits; save it as RGB")
        lightness = raw[..., :1].astype(np.float32) / 65535 * 100
        return np.concatenate([lightness, raw[..., 1:3].view(np.int16) / 256.0], -1), mode, None
    signed = raw.dtype.kind == "i"
    white = None if raw.dtype.kind == "f" else 2 ** (int(page.bitspersample) - signed) - 1
    levels = _levels(raw, white)
    samples, alpha = levels[..., :count], None
    if page.photometric == MIN_IS_WHITE:
        samples = 1 - samples
    kinds = [int(kind) for kind in page.extrasamples]
    if levels.shape[-1] > count and kinds[:1] in ([1], [2]):  # associated or not
        alpha = levels[..., count]
        if kinds[0] == 1:
            samples = np.clip(samples / np.maximum(alpha, 1e-6)[..., None], 0, 1)
    return samples, mode, alpha


def _levels(raw: np.ndarray, white: int | None) -> np.ndarray:
    """Numbers of a file as float32 in [0, 1]; `white` is the largest one, None for floating point.

    Raises:
        ValueError: if the range cannot be known.
    """
    low, high = float(raw.min()), float(raw.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds NaN or infinity")
    if white is None:
        if low < FLOAT_RANGE[0] or high > FLOAT_RANGE[1]:
            raise ValueError(
                f"floating point must go from 0 (black) to 1 (white), it goes from {low:g} to "
                f"{high:g}; divide by the value of white"
            )
        return raw.astype(np.float32).clip(0, 1)
    if low < 0:
        raise ValueError(f"its numbers go down to {low:g}, and which one is black is not known")
    if white > 65535 and high <= 65535:
        # 16 bits in 32, as numpy and Pillow write them: of 32 bits this would all be black
        if 0 < high <= 255:
            raise ValueError(
                f"its 32-bit numbers end at {high:g}, and which one is white is not known; save "
                f"it with 8 or 16 bits"
            )
        white = 65535
    return (raw / np.float64(white)).astype(np.float32)


def _as_channels(raw: np.ndarray) -> np.ndarray:
    return raw[..., None] if raw.ndim == 2 else raw


def _upright(plane: np.ndarray, turn: int) -> np.ndarray:
    """Turned as EXIF's orientation says."""
    if turn in (5, 6, 7, 8):
        plane = plane.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        plane = plane[::-1]
    if turn in (2, 3, 6, 7):
        plane = plane[:, ::-1]
    return np.ascontiguousarray(plane)


def _jpeg2000_bits(content: bytes) -> int:
    """Of the first component, from the marker SIZ of the code stream (ISO/IEC 15444-1, A.5.1)."""
    place = content.find(b"\xff\x4f\xff\x51")
    return (content[place + 42] & 0x7F) + 1 if 0 <= place < len(content) - 42 else 8


def _avif_bits(content: bytes) -> int:
    """From the configuration box of AV1 (AV1 Codec ISO Media File Format Binding, 2.3.3)."""
    place = content.find(b"av1C")
    if not 0 <= place < len(content) - 6:
        return 8
    high, twelve = content[place + 6] & 0x40, content[place + 6] & 0x20
    return 12 if high and twelve else 10 if high else 8
