"""ICC profiles: colours of a file in sRGB, in bytes by Pillow, at 16 bits by imagecodecs.

Both are Little CMS's, relative colorimetric.
"""

import io

import numpy as np
from PIL import Image, ImageCms

MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's mode of the numbers that a profile explains."""
NO_OPTIMIZATION = 0x0100
"""Little CMS's flag: its tables for speed are off by up to 15 of 255 levels in deep shadows."""


def bytes_in_srgb(colors: Image.Image, content: bytes) -> Image.Image:
    """Colours of a profile in sRGB; as they are if it is sRGB already or does not explain them."""
    profile = _foreign_profile(content, colors.mode)
    if profile is None:
        return colors
    try:
        return ImageCms.profileToProfile(
            colors,
            profile,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    except ImageCms.PyCMSError:
        return colors


def levels_in_srgb(samples: np.ndarray, mode: str, content: bytes | None) -> np.ndarray:
    """Samples of more than 8 bits in sRGB, by their profile where it explains them.

    Args:
        samples: (H, W, C) float in [0, 1]; of LAB: L in [0, 100], a and b in [-128, 128].
        mode: L, RGB, CMYK or LAB, as Pillow names them.
        content: the profile.

    Returns:
        (H, W, 3) float32 in [0, 1].
    """
    import imagecodecs

    if mode == "LAB":
        source, kind = samples.astype(np.float64), "lab"
        content = imagecodecs.cms_profile("lab4")
    elif content and _foreign_profile(content, mode) is not None:
        source = (samples * 65535).round().astype(np.uint16)
        kind = {"L": "gray"}.get(mode, mode.lower())
        source = source[..., 0] if mode == "L" else source
    elif mode == "CMYK":
        return ((1 - samples[..., :3]) * (1 - samples[..., 3:])).astype(np.float32)  # as Pillow's
    else:
        return np.broadcast_to(samples, (*samples.shape[:2], 3)).astype(np.float32)
    shown = imagecodecs.cms_transform(
        np.ascontiguousarray(source),
        content,
        imagecodecs.cms_profile("srgb"),
        colorspace=kind,
        outcolorspace="rgb",
        outdtype=np.uint16,
        intent=int(ImageCms.Intent.RELATIVE_COLORIMETRIC),
        flags=NO_OPTIMIZATION,
    )
    return shown.astype(np.float32) / 65535


def _foreign_profile(content: bytes, mode: str) -> ImageCms.ImageCmsProfile | None:
    """An ICC profile, if it can be read, is for numbers of this mode, and is not sRGB's own."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = profile.profile.xcolor_space.strip()
        described = (profile.profile.profile_description or "").lower()
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None
    if MODES.get(space) != mode or (mode == "RGB" and "srgb" in described):
        return None
    return profile
