"""A photo as the host reads it, and the result with everything that the photo carried.

Load Image reads the colours of some files wrong and drops what is not colour. So it gets every
photo upright, as RGB, at its depth, and the rest waits here for the result: EXIF with the capture
date, XMP, the colour profile and the transparency.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from hypir.train.pictures import in_bytes, open_picture

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF"}
FORMATS |= {".tiff": "TIFF", ".bmp": "BMP"}
WRITE = {  # as close to lossless as is usual for the format
    "PNG": {"compress_level": 4},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95, "method": 4},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
}
LONGEST_SIDE = {"JPEG": 65535, "WEBP": 16383}  # limits of the formats
DEEP = ("PNG", "TIFF")
OPAQUE = ("JPEG", "BMP")
# what describes a photo; the other tags of its first directory describe how the file is stored
ABOUT = (0x010D, 0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C)
ABOUT += (0x8298, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F)
ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
PIXELS_WIDE, PIXELS_HIGH = 0xA002, 0xA003
TIFF_XMP = 700


@dataclass(frozen=True)
class Photo:
    """What the result takes from a photo besides its colours."""

    size: tuple[int, int]
    """Width and height after applying the camera's orientation."""
    deep: bool = False
    """Whether the file has more than 8 bits a channel."""
    alpha: bytes = b""
    """Transparency as a PNG, which Load Image drops; empty if there is none."""
    icc_profile: bytes = b""
    """The colour profile; Load Image passes the values on unchanged."""
    exif: bytes = b""
    """EXIF of the upright picture."""
    xmp: bytes = b""
    """XMP of the upright picture."""


def read(content: bytes, name: str) -> tuple[bytes, Photo]:
    """A photo's colours as a PNG for Load Image, and the rest.

    Raises:
        ValueError: in one sentence with the name, if it cannot be read right.
    """
    picture = open_picture(content, name, in_srgb=False)
    deep = picture.colors.dtype != np.uint8
    alpha = b""
    if picture.alpha is not None:
        alpha = _png(_samples(picture.alpha) if deep else picture.alpha)
    plain = _png(_samples(picture.colors) if deep else picture.colors)
    height, width = picture.colors.shape[:2]
    exif, xmp = _about(content)
    profile = picture.profile or b""
    return plain, Photo((width, height), deep, alpha, profile, exif, xmp)


def write(
    saved: bytes, photo: Photo, format_: str, quality: int | None = None
) -> tuple[bytes, tuple[int, int]]:
    """The host's picture in a format, with what the photo carried; and its width and height.

    Args:
        saved: the host's PNG.
        photo: the rest of the photo.
        format_: a value of FORMATS.
        quality: of JPEG and WebP, 1 to 100; 95 if not given.

    Raises:
        ValueError: if the picture is larger than the format allows.
    """
    deep = photo.deep and format_ in DEEP
    result = _decoded(saved, deep)
    height, width = result.shape[:2]
    longest = LONGEST_SIDE.get(format_)
    if longest and max(width, height) > longest:
        raise ValueError(
            f"{format_} supports at most {longest} px per side, but the result has "
            f"{width}x{height}; use --format png"
        )
    if photo.alpha and format_ not in OPAQUE:
        result = np.dstack([result, _alpha_of(photo.alpha, (width, height), result.dtype)])
    exif = _with_size(photo.exif, width, height)
    if result.dtype == np.uint16:
        make = _deep_png if format_ == "PNG" else _deep_tiff
        return make(result, photo, exif), (width, height)
    options = dict(WRITE[format_])
    if quality is not None and "quality" in options:
        options["quality"] = quality
    if format_ != "BMP":
        options |= {"icc_profile": photo.icc_profile} if photo.icc_profile else {}
        options |= {"exif": exif} if exif else {}
        if exif and format_ == "TIFF":
            del options["compression"]  # libtiff, which compresses, writes no directory of EXIF
        if photo.xmp and format_ == "TIFF":
            tags = Image.Exif()
            tags.load(exif)
            tags[TIFF_XMP] = photo.xmp
            options["exif"] = tags
        elif photo.xmp and format_ == "PNG":
            text = PngInfo()
            text.add_itxt("XML:com.adobe.xmp", photo.xmp.decode(errors="replace"))
            options["pnginfo"] = text
        elif photo.xmp:
            options["xmp"] = photo.xmp
    file = io.BytesIO()
    Image.fromarray(result).save(file, format_, **options)
    return file.getvalue(), (width, height)


def format_of(name: str, asked: str) -> tuple[str, str]:
    """Suffix and format of a result: as asked, or as the photo's where that can be written."""
    suffix = PurePosixPath(name).suffix
    if asked != "keep":
        return f".{asked}", FORMATS[f".{asked}"]
    known = FORMATS.get(suffix.lower())
    return (suffix, known) if known else (".png", "PNG")


# ------------------------------------------------------------------------------------- pixels


def _samples(levels: np.ndarray) -> np.ndarray:
    return (levels * 65535).round().astype(np.uint16)


def _png(values: np.ndarray) -> bytes:
    if values.dtype == np.uint8:
        file = io.BytesIO()
        Image.fromarray(values).save(file, "PNG", compress_level=1)
        return file.getvalue()
    import imagecodecs

    return imagecodecs.png_encode(values, level=1)


def _decoded(png: bytes, deep: bool) -> np.ndarray:
    """(H, W, 3) uint8, or uint16 if the picture is deep."""
    if deep:
        import imagecodecs

        values = imagecodecs.png_decode(png)
        if values.dtype == np.uint8:  # the host cannot save more
            return values[..., :3]
        return np.ascontiguousarray(values[..., :3])
    with Image.open(io.BytesIO(png)) as picture:
        return np.array(picture.convert("RGB"))


def _alpha_of(png: bytes, size: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """The photo's transparency, enlarged like the photo, in the result's type."""
    import imagecodecs

    alpha = imagecodecs.png_decode(png)
    if dtype == np.uint8:
        levels = alpha if alpha.dtype == np.uint8 else in_bytes(alpha / np.float32(65535))
        return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.LANCZOS))
    levels = alpha.astype(np.float32) / (255 if alpha.dtype == np.uint8 else 65535)
    resized = np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.LANCZOS))
    return _samples(resized.clip(0, 1))


# ----------------------------------------------------------------------------------- metadata


def _about(content: bytes) -> tuple[bytes, bytes]:
    """EXIF and XMP of a file, for an upright picture."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            found = picture.getexif()
            xmp = picture.info.get("xmp") or found.get(TIFF_XMP) or b""
            kept = Image.Exif()
            for tag in ABOUT:
                if tag in found:
                    kept[tag] = found[tag]
            for tag in (EXIF_IFD, GPS_IFD):
                if directory := dict(found.get_ifd(tag)):
                    kept[tag] = directory
            exif = kept.tobytes() if len(kept) else b""
    except UnidentifiedImageError:
        return b"", b""
    except Exception:  # damaged metadata has as many errors as writers; the picture is whole
        return b"", b""
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    upright = re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", xmp)
    return exif, upright


def _with_size(exif: bytes, width: int, height: int) -> bytes:
    if not exif:
        return b""
    found = Image.Exif()
    found.load(exif)
    directory = dict(found.get_ifd(EXIF_IFD))
    if PIXELS_WIDE in directory or PIXELS_HIGH in directory:
        found[EXIF_IFD] = directory | {PIXELS_WIDE: width, PIXELS_HIGH: height}
    return found.tobytes()


def _deep_png(values: np.ndarray, photo: Photo, exif: bytes) -> bytes:
    """16 bits a channel; Pillow writes only 8, and imagecodecs writes no metadata."""
    import imagecodecs

    plain = imagecodecs.png_encode(values, level=4)
    chunks = []
    if photo.icc_profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.icc_profile)))
    if photo.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + photo.xmp))
    if exif:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    packed = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    header = 8 + 25  # signature and IHDR (PNG 3rd edition, 5.2 and 11.2.1)
    return plain[:header] + packed + plain[header:]


def _deep_tiff(values: np.ndarray, photo: Photo, exif: bytes) -> bytes:
    """16 bits a channel; of EXIF a TIFF written here keeps its first directory and the date."""
    import tifffile

    found = Image.Exif()
    if exif:
        found.load(exif)
    about = {tag: str(found[tag]) for tag in ABOUT if isinstance(found.get(tag), str)}
    taken = dict(found.get_ifd(EXIF_IFD)).get(0x9003)
    about |= {0x0132: str(taken)} if taken else {}
    tags = [(tag, 2, 0, text, True) for tag, text in about.items()]
    tags += [(TIFF_XMP, 1, len(photo.xmp), photo.xmp, True)] if photo.xmp else []
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        values,
        photometric="rgb",
        extrasamples=["unassalpha"] if values.shape[2] == 4 else None,
        compression="adobe_deflate",
        predictor=True,
        iccprofile=photo.icc_profile or None,
        metadata=None,
        software=False,
        extratags=tags,
    )
    return file.getvalue()
