"""CIELAB: the colour space in which equal distances look about equally different.

CIE 15:2004, section 8.2.1, for sRGB (IEC 61966-2-1) and its white, D65. The straight pieces near
black, of sRGB and of CIELAB, go on below zero: values outside [0, 1] are converted too and come
back.
"""

import torch
from torch import Tensor

RGB_TO_XYZ = (
    (0.4124, 0.3576, 0.1805),
    (0.2126, 0.7152, 0.0722),
    (0.0193, 0.1192, 0.9505),
)
"""IEC 61966-2-1. The rows are divided by their sums, the white: grey is then exactly a = b = 0."""
KNEE = 6 / 29
"""Where the cube root of CIELAB ends, on the scale of its result."""


def rgb_to_lab(image: Tensor) -> Tensor:
    """L/100, a/100, b/100 of an sRGB image (..., 3) in [0, 1]; values outside are converted too."""
    linear = torch.where(
        image > 0.04045, ((image.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, image / 12.92
    )
    xyz = linear @ _matrix(image).T
    root = torch.where(
        xyz > KNEE**3, xyz.clamp_min(KNEE**3) ** (1 / 3), xyz / (3 * KNEE**2) + 4 / 29
    )
    x, y, z = root.unbind(-1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], dim=-1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of rgb_to_lab; colours that sRGB lacks come out below 0 or above 1."""
    lightness, a, b = lab.unbind(-1)
    y = (lightness + 0.16) / 1.16
    root = torch.stack([y + a / 5, y, y - b / 2], dim=-1)
    xyz = torch.where(root > KNEE, root**3, (root - 4 / 29) * (3 * KNEE**2))
    linear = xyz @ _matrix(lab, inverse=True).T
    knee = 0.04045 / 12.92
    return torch.where(
        linear > knee, linear.clamp_min(knee) ** (1 / 2.4) * 1.055 - 0.055, linear * 12.92
    )


def _matrix(like: Tensor, inverse: bool = False) -> Tensor:
    """From sRGB to XYZ relative to white, or back, on the device of `like`."""
    matrix = torch.tensor(RGB_TO_XYZ, dtype=torch.float64)
    matrix /= matrix.sum(1, keepdim=True)
    return (torch.linalg.inv(matrix) if inverse else matrix).to(like)
