"""The operations that degradation.py combines: blur kernels, JPEG, and the aging of prints.

All functions are deterministic: the caller passes every parameter. They work on float32 images
(1,3,H,W) in [0,1], called `picture`, from 1x1 up, on the CPU and on CUDA, block by block: beside an
image and its result they hold a few blocks. `on_block` is called after each block and may raise to
stop the work.

Source of the kernels: Real-ESRGAN, Wang et al. 2021 (arXiv 2107.10833), section 3, after the
generalized and plateau-shaped kernels of Liu et al. 2020. torch is enough for them (kornia has
no rotated or generalized kernels, and its filter2d is the convolution below).

Why not kornia's JPEG: it rounds softly to pass gradients, which are not needed here, and differs
from libjpeg by 0.9 to 1.8 grey levels on average, about a quarter of what JPEG itself changes. Why
not Pillow's: it would move every image of a training batch from the GPU to the CPU and back, one by
one. The JPEG below follows libjpeg's steps, including the integer rounding, on the tensor's device.
It differs from libjpeg by 0.05 to 0.7 levels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import OnBlock, blocks, tell
from .image import symmetric_index

# Tables K.1 and K.2 of ITU-T T.81 (the JPEG standard), rows in order of vertical frequency
LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)

CELL_PX = 16  # of JPEG with halved chroma; divides the side of a block

# BT.601 at full range, as in JFIF: rows Y, Cb, Cr
RGB_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
YCC_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


def _mahalanobis(size: int, sigma: tuple[float, float], angle: float) -> Tensor:
    """d^T S^-1 d on a size x size grid; S has deviations `sigma` along axes rotated by `angle`."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x
    return (along / sigma[0]) ** 2 + (across / sigma[1]) ** 2


def gaussian_kernel(
    size: int, sigma: tuple[float, float], angle: float = 0.0, beta: float = 1.0
) -> Tensor:
    """exp(-(d^T S^-1 d)^beta / 2), normalised; Gaussian for beta 1, else generalized Gaussian.

    Args:
        size: side in pixels, odd.
        sigma: standard deviations in pixels along the kernel's two axes.
        angle: from the horizontal to the first axis, radians.
        beta: shape; heavier tails below 1, a flatter top above 1.

    Returns:
        (size, size) float32 on the CPU, sum 1.
    """
    kernel = torch.exp(-0.5 * _mahalanobis(size, sigma, angle) ** beta)
    return (kernel / kernel.sum()).float()


def plateau_kernel(
    size: int, sigma: tuple[float, float], angle: float = 0.0, beta: float = 1.0
) -> Tensor:
    """1 / (1 + (d^T S^-1 d)^beta), normalised, with a flat top; arguments as in gaussian_kernel."""
    kernel = 1 / (1 + _mahalanobis(size, sigma, angle) ** beta)
    return (kernel / kernel.sum()).float()


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """The ideal two-dimensional low-pass, which causes ringing: w J1(w r) / (2 pi r), normalised.

    Args:
        size: side in pixels, odd.
        cutoff: w, radians per pixel, up to pi.

    Returns:
        (size, size) float32 on the CPU, sum 1.
    """
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    r = torch.hypot(place[:, None], place[None, :])
    kernel = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)  # the limit at r = 0
    return (kernel / kernel.sum()).float()


def blur(picture: Tensor, kernel: Tensor, on_block: OnBlock | None = None) -> Tensor:
    """Each channel filtered by the kernel, symmetric padding, same size."""
    reach = kernel.shape[0] // 2
    height, width = picture.shape[-2:]
    channels = picture.shape[1]
    weight = kernel.to(picture).expand(channels, 1, *kernel.shape)
    result = torch.empty_like(picture)
    for block in blocks(height, width):
        rows, columns = (
            symmetric_index(place.start - reach, place.stop + reach, side).to(picture.device)
            for place, side in zip(block.place, (height, width), strict=True)
        )
        padded = picture[..., rows[:, None], columns]
        result[(..., *block.place)] = F.conv2d(padded, weight, groups=channels)
        tell(on_block)
    return result


def jpeg(picture: Tensor, quality: int, on_block: OnBlock | None = None) -> Tensor:
    """A picture after baseline JPEG (4:2:0, standard tables), computed with libjpeg's steps.

    The rounding differs from libjpeg: on photographs by 0.05 to 0.7 grey levels on average. JPEG
    itself changes them by 14 (quality 1) to 1.4 (quality 100).

    A cell of 16 px depends only on its direct neighbours, through the interpolated chroma: blocks
    with a halo of one cell give exactly the result of the whole image.

    Args:
        picture: (1,3,H,W) in [0,1].
        quality: 1 to 100.

    Returns:
        (1,3,H,W) in [0,1], at multiples of 1/255.
    """
    result = torch.empty_like(picture)
    for block in blocks(*picture.shape[-2:], halo=CELL_PX):
        part = _compressed(picture[(..., *block.outer)], quality)
        result[(..., *block.place)] = part[(..., *block.inner)]
        tell(on_block)
    return result


def _compressed(picture: Tensor, quality: int) -> Tensor:
    """Jpeg of one block."""
    height, width = picture.shape[-2:]
    padded = F.pad(picture, (0, -width % 16, 0, -height % 16), mode="replicate")
    rgb = (padded.clamp(0, 1) * 255).round() - 128
    # float64 throughout, so that sums round in the same direction on every device
    ycc = _round(_mix_channels(rgb.double(), RGB_TO_YCC))
    luma = _quantize_blocks(ycc[:, :1], _scaled_table(LUMA_TABLE, quality))
    halved = F.avg_pool2d(
        ycc[:, 1:], 2
    ).round()  # libjpeg alternates between rounding halves up and down
    chroma = _quantize_blocks(halved, _scaled_table(CHROMA_TABLE, quality))
    # only the cells that the decoder shows: it repeats the last of them, not the padding
    chroma = chroma[..., : -(-height // 2), : -(-width // 2)]
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False).round()
    ycc = torch.cat([luma[..., :height, :width], chroma[..., :height, :width]], dim=1)
    rgb = _round(_mix_channels(ycc, YCC_TO_RGB) + 128).clamp(0, 255)
    return rgb.to(picture.dtype) / 255


def _round(values: Tensor) -> Tensor:
    """Round to the nearest integer, halves up as in libjpeg: flat blocks often lie on a half."""
    return (values + (0.5 + 1e-9)).floor()


def _mix_channels(picture: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Multiply the channels by a matrix: one row per output channel."""
    weight = torch.tensor(matrix, dtype=picture.dtype, device=picture.device)
    return torch.einsum("oi,bihw->bohw", weight, picture)


def _scaled_table(table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """The table for a quality, by libjpeg's rule: times 50/q below 50, 2 - q/50 above; 1 to 255."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(table) * percent + 50) // 100).clamp(1, 255).double()


def _quantize_blocks(plane: Tensor, table: Tensor) -> Tensor:
    """Zero-centred planes (sides multiples of 8) after DCT, rounding by the table, inverse DCT."""
    place = torch.arange(8, dtype=torch.float64)
    dct = torch.cos((2 * place[None, :] + 1) * place[:, None] * math.pi / 16) / 2
    dct[0] /= math.sqrt(2)  # orthonormal
    dct, table = dct.to(plane.device), table.to(plane.device)
    batch, channels, height, width = plane.shape
    blocks = plane.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    levels = _round(dct @ blocks @ dct.T / table)
    blocks = _round(dct.T @ (levels * table) @ dct).clamp(-128, 127)
    return blocks.transpose(3, 4).reshape(plane.shape)


def fade(
    picture: Tensor,
    black: float,
    white: tuple[float, float, float],
    saturation: float,
    on_block: OnBlock | None = None,
) -> Tensor:
    """The colours of an aged print: paler, with less contrast and a colour cast.

    Args:
        picture: (1,3,H,W) in [0,1].
        black: the value of faded black, [0,1].
        white: the value of faded white per channel; unequal values make the cast.
        saturation: remaining share of the colour, [0,1].

    Returns:
        (1,3,H,W) in [0,1] if black <= white.
    """
    weights = picture.new_tensor((0.299, 0.587, 0.114))[:, None, None]
    top = picture.new_tensor(white)[:, None, None]
    result = torch.empty_like(picture)
    for block in blocks(*picture.shape[-2:]):
        part = picture[(..., *block.place)]
        gray = (part * weights).sum(1, keepdim=True)
        result[(..., *block.place)] = black + (top - black) * (gray + saturation * (part - gray))
        tell(on_block)
    return result


def scratch(
    picture: Tensor,
    *,
    through: tuple[float, float],
    angle: float,
    wobble: tuple[float, float, float],
    span: tuple[float, float],
    half_width: float,
    strength: float,
    tone: float,
    on_block: OnBlock | None = None,
) -> Tensor:
    """A scratch: a long, thin, nearly straight line that fades out at both ends.

    Args:
        picture: (1,3,H,W) in [0,1].
        through: the point (y, x) on the line, as fractions of the sides.
        angle: from the vertical, radians.
        wobble: amplitude, period (both as fractions of the shorter side) and phase of its waves.
        span: start and end along its direction, relative to the point, in shorter sides.
        half_width: in pixels; the profile across is Gaussian.
        strength: its opacity in the middle, [0,1].
        tone: its grey, [0,1].
    """
    height, width = picture.shape[-2:]
    side = min(height, width)
    grid = _pixel_grid(height, width, picture.device)
    amplitude, period, phase = wobble
    result = torch.empty_like(picture)
    for block in blocks(height, width):
        y = grid[0][block.place[0]] - through[0] * height
        x = grid[1][:, block.place[1]] - through[1] * width
        along = (math.cos(angle) * y + math.sin(angle) * x) / side
        across = math.cos(angle) * x - math.sin(angle) * y
        across = across - amplitude * side * torch.sin(2 * math.pi * along / period + phase)
        ends = ((along - span[0]) * 20).clamp(0, 1) * ((span[1] - along) * 20).clamp(0, 1)
        alpha = strength * ends * torch.exp(-((across / half_width) ** 2) / 2)
        part = picture[(..., *block.place)]
        result[(..., *block.place)] = part + alpha * (tone - part)
        tell(on_block)
    return result


def speck(
    picture: Tensor,
    *,
    centre: tuple[float, float],
    radius: tuple[float, float],
    angle: float,
    strength: float,
    tone: float,
) -> Tensor:
    """A grain of dust: an ellipse with soft edges, painted into the picture in place.

    Args:
        picture: (1,3,H,W) in [0,1]; changed.
        centre: (y, x) as fractions of the sides.
        radius: radii of the two axes in pixels.
        angle: of the first axis against the horizontal, radians.
        strength: its opacity, [0,1].
        tone: its grey, [0,1].
    """
    height, width = picture.shape[-2:]
    reach = math.ceil(max(radius)) + 2
    row, column = centre[0] * height, centre[1] * width
    top, left = max(int(row) - reach, 0), max(int(column) - reach, 0)
    window = picture[..., top : int(row) + reach + 1, left : int(column) + reach + 1]
    y, x = _pixel_grid(*window.shape[-2:], picture.device)
    y, x = y + top - row, x + left - column
    along = (math.cos(angle) * x + math.sin(angle) * y) / radius[0]
    across = (math.cos(angle) * y - math.sin(angle) * x) / radius[1]
    distance = (torch.hypot(along, across) - 1) * min(
        radius
    )  # margin in pixels beyond the edge, approximately
    alpha = strength * (0.5 - distance).clamp(0, 1)
    window += alpha * (tone - window)
    return picture


def _pixel_grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel centres: y (H,1) and x (1,W)."""
    rows = torch.arange(height, device=device, dtype=torch.float32) + 0.5
    columns = torch.arange(width, device=device, dtype=torch.float32) + 0.5
    return rows[:, None], columns[None, :]
