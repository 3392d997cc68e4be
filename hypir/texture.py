"""Texture richness: a measure of fine texture in an image, and its use as a condition.

The paper conditions on statistics of the Laplacian response but gives no formula; the definition
here is this project's own. Legend:

    Y        luma of BT.601, 0.299 R + 0.587 G + 0.114 B, in [0,1]
    L        Y convolved with [[0,1,0],[1,-4,1],[0,1,0]], symmetric padding
    sigma    standard deviation of L over the image, a mask or a window
    richness log2(sigma / 0.005) / 6: 0 at sigma 0.005, 1 at 0.32; a step of 1/6 doubles sigma

Richness is clipped only on maps, not where it is computed. Sharp photographs at 512 px measure
about 0.75 to 0.82, the same photographs enlarged 4x 0.05 to 0.3. Noise counts as texture, so the
number means little for a degraded image: measure clean images. Large images are processed in
blocks, with sums in float64 on the CPU, because sums over a large image lose too much precision in
float32.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import Block, OnPart, Parts, blocks

SIGMA_AT_ZERO = 0.005  # sigma of richness 0
DOUBLINGS = 6  # number of doublings of sigma from richness 0 to 1
SIGMA_FLOOR = 1e-6  # sigma of a flat image: richness -2.05 instead of minus infinity
WINDOW_PX = (
    128  # window of the map: separates sky from grass in a photo, and still has 16,384 samples
)

WHOLE_PIXELS = 2**21
"""Batches up to this size are measured at once, as in training."""


def sigma_to_richness(sigma: Tensor) -> Tensor:
    """log2(sigma / 0.005) / 6, unclipped; sigma counts as at least 1e-6."""
    return torch.log2(sigma.clamp_min(SIGMA_FLOOR) / SIGMA_AT_ZERO) / DOUBLINGS


def richness_to_sigma(richness: Tensor) -> Tensor:
    """0.005 * 2^(6 richness), the inverse of sigma_to_richness above the floor."""
    return SIGMA_AT_ZERO * torch.exp2(DOUBLINGS * richness)


def luma(image: Tensor) -> Tensor:
    """BT.601 luma (B,H,W) in float32 of an image (B,H,W,C); alpha is ignored, gray is luma."""
    image = image.float()
    if image.shape[-1] < 3:
        return image[..., 0]
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601


def laplacian_response(plane: Tensor) -> Tensor:
    """Laplacian of planes (B,H,W) with symmetric padding, same size, from 1x1 up.

    Symmetric padding by one pixel repeats the edge. It sums differences instead of subtracting four
    times the centre, so that a flat plane gives exactly 0.
    """
    padded = F.pad(plane[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    up, down = padded[:, :-2, 1:-1] - plane, padded[:, 2:, 1:-1] - plane
    left, right = padded[:, 1:-1, :-2] - plane, padded[:, 1:-1, 2:] - plane
    return (up + down) + (left + right)


def measure_richness(
    image: Tensor, mask: Tensor | None = None, on_part: OnPart | None = None
) -> Tensor:
    """Texture richness of each image of a batch.

    Args:
        image: (B,H,W,C) in [0,1].
        mask: (B or 1,H,W) in [0,1] of the same size: weight of each pixel.
        on_part: see blocks.OnPart.

    Returns:
        (B,) float32, unclipped.

    Raises:
        ValueError: if the mask has another size or batch, or is empty for an image.
    """
    batch, height, width = image.shape[:3]
    if mask is None and batch * height * width <= WHOLE_PIXELS:
        response = laplacian_response(luma(image))
        return sigma_to_richness(response.flatten(1).std(dim=1, correction=0))
    if mask is not None and (
        mask.ndim != 3 or mask.shape[1:] != image.shape[1:3] or mask.shape[0] not in (1, batch)
    ):
        raise ValueError(
            f"mask must have the image's batch (or 1), height and width {(batch, height, width)}, "
            f"got {tuple(mask.shape)}; resize the mask to the image"
        )
    masks = None if mask is None else mask.expand(batch, height, width)
    todo = blocks(height, width, halo=1)
    parts = Parts(on_part, batch, len(todo))
    sigmas = []
    for i in range(batch):
        sums = Sums()
        for block in todo:
            response = inner_part(laplacian_response(luma(image[i][block.outer][None])), block)
            sums.add(response, None if masks is None else masks[i][block.place][None])
            parts.tell()
        if not sums.weight > 0:
            raise ValueError(
                "the mask is empty, so there is nothing to measure; paint at least one pixel"
            )
        sigmas.append(sums.sigma())
        parts.end_item()
    return sigma_to_richness(torch.tensor(sigmas, dtype=torch.float32, device=image.device))


class Sums:
    """Sums of numbers and their squares in float64, for their standard deviation."""

    def __init__(self):
        self.weight = self._first = self._second = 0.0

    def add(self, values: Tensor, weight: Tensor | None = None) -> None:
        """Add numbers, each with a weight clamped to [0, 1], or 1."""
        values = values.cpu().double()
        if weight is None:
            self.weight += values.numel()
            weighted = values
        else:
            weight = weight.cpu().double().clamp(0, 1)
            self.weight += float(weight.sum())
            weighted = values * weight
        self._first += float(weighted.sum())
        self._second += float((weighted * values).sum())

    def sigma(self) -> float:
        """Their standard deviation."""
        mean = self._first / self.weight
        return math.sqrt(max(self._second / self.weight - mean**2, 0.0))

    def richness(self) -> float:
        """Their richness."""
        return float(sigma_to_richness(torch.tensor(self.sigma(), dtype=torch.float64)))


def inner_part(planes: Tensor, block: Block) -> Tensor:
    """The inner part of planes (B,h,w) over a block's outer rectangle."""
    return planes[:, block.inner[0], block.inner[1]]


def richness_map(image: Tensor, window: int = WINDOW_PX, on_part: OnPart | None = None) -> Tensor:
    """Texture richness around each pixel, as a mask.

    It is computed from the standard deviation in a square window around the pixel, cut at the image
    border. A window of twice the image's sides gives measure_richness everywhere.

    Args:
        image: (B,H,W,C) in [0,1].
        window: side of the window in pixels, from 1.
        on_part: see blocks.OnPart.

    Returns:
        (B,H,W) float32, clipped to [0,1].

    Raises:
        ValueError: if the window is smaller than one pixel.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 pixel, got {window}")
    batch, height, width = image.shape[:3]
    result = torch.empty(batch, height, width, device=image.device)
    todo = blocks(height, width, halo=window // 2)
    parts = Parts(on_part, batch, len(todo))
    for i in range(batch):
        for block in todo:
            response = _response(image[i], block.outer).cpu().double()
            mean = box_mean(response, window)
            variance = (box_mean(response**2, window) - mean**2).clamp_min(0)
            values = sigma_to_richness(inner_part(variance, block).sqrt()).clamp(0, 1)
            result[i][block.place] = values[0].to(image.device, torch.float32)
            parts.tell()
        parts.end_item()
    return result


def _response(image: Tensor, place: tuple[slice, slice]) -> Tensor:
    """laplacian_response (1,h,w) of luma over a rectangle of an image (H,W,C)."""
    outer, inner = [], []
    for side, length in zip(place, image.shape[:2], strict=True):
        first, last = max(side.start - 1, 0), min(side.stop + 1, length)
        outer.append(slice(first, last))
        inner.append(slice(side.start - first, side.stop - first))
    response = laplacian_response(luma(image[tuple(outer)][None]))
    return response[:, inner[0], inner[1]]


def box_mean(plane: Tensor, window: int) -> Tensor:
    """Mean over the window around each pixel of (B,H,W), cut at the borders; needs float64."""
    for axis in (1, 2):
        length = plane.shape[axis]
        place = torch.arange(length)
        start = (place - window // 2).clamp_min(0)
        stop = (place - window // 2 + window).clamp_max(length)
        zero = torch.zeros_like(plane.narrow(axis, 0, 1))
        sums = torch.cat([zero, plane.cumsum(axis)], dim=axis)
        count = (stop - start).to(plane.dtype).reshape(-1, *[1] * (2 - axis))
        plane = (sums.index_select(axis, stop) - sums.index_select(axis, start)) / count
    return plane


# The richness token: Fourier features -> one hidden layer -> one token.


def init_texture_mlp(
    width: int, *, hidden: int = 256, num_frequencies: int = 8, seed: int = 0
) -> dict[str, Tensor]:
    """Initial weights of the richness embedding; the token is zero until they are trained.

    Args:
        width: width of the prior's text tokens.
        hidden: width of the hidden layer.
        num_frequencies: Fourier frequencies, from 1/4 to 8 periods per unit of richness, evenly
            spaced on a log scale: the lowest separates the ends of the scale, the highest resolves
            steps of 0.03.
        seed: seed of the first layer; the last layer starts at zero.

    Returns:
        dict of float32 tensors: `frequencies`, `in.weight`, `in.bias`, `out.weight`, `out.bias`.
    """
    num_features = 2 * num_frequencies
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(num_features)
    weight = torch.rand(hidden, num_features, generator=generator)
    return {
        "frequencies": torch.logspace(-2, 3, num_frequencies, base=2.0),
        "in.weight": (2 * weight - 1) * bound,
        "in.bias": torch.zeros(hidden),
        "out.weight": torch.zeros(width, hidden),
        "out.bias": torch.zeros(width),
    }


def check_texture_mlp(weights: dict[str, Tensor], width: int) -> None:
    """Raise ValueError unless the weights are a complete richness embedding for this token width.

    Raises:
        ValueError: with the first tensor that is missing, unknown, misshapen or not finite.
    """
    expected = {"frequencies", "in.weight", "in.bias", "out.weight", "out.bias"}
    if missing := sorted(expected - weights.keys()):
        raise ValueError(f"texture MLP lacks {len(missing)} of 5 tensors, first '{missing[0]}'")
    if unknown := sorted(weights.keys() - expected):
        raise ValueError(f"texture MLP has {len(unknown)} unknown tensors, first '{unknown[0]}'")
    hidden, num_frequencies = weights["in.bias"].numel(), weights["frequencies"].numel()
    shapes = {
        "frequencies": (num_frequencies,),
        "in.weight": (hidden, 2 * num_frequencies),
        "in.bias": (hidden,),
        "out.weight": (width, hidden),
        "out.bias": (width,),
    }
    for name, shape in shapes.items():
        got = tuple(weights[name].shape)
        if got != shape or 0 in shape:
            raise ValueError(
                f"texture MLP tensor '{name}' must have shape {shape} for tokens of width {width}, "
                f"got {got}; use weights that were trained for this prior"
            )
        if not weights[name].is_floating_point():
            raise ValueError(
                f"texture MLP tensor '{name}' must contain floating-point numbers, got "
                f"{weights[name].dtype}"
            )
        if not torch.isfinite(weights[name].float()).all():
            raise ValueError(f"texture MLP tensor '{name}' contains NaN or infinity")


def embed_richness(richness: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """One token per image that gives the network the requested texture richness.

    features = [sin(2 pi f r), cos(2 pi f r)] (Tancik et al. 2020), token = out(silu(in(features))).

    Args:
        richness: r, (B,), unclipped.
        weights: as returned by init_texture_mlp.

    Returns:
        (B,1,width) on the weights' device and in their dtype.
    """
    first = weights["in.weight"]
    richness = richness.to(first.device, torch.float32)
    phase = 2 * math.pi * richness[:, None] * weights["frequencies"].float()
    features = torch.cat([phase.sin(), phase.cos()], dim=-1).to(first.dtype)
    inner = F.silu(F.linear(features, first, weights["in.bias"]))
    return F.linear(inner, weights["out.weight"], weights["out.bias"])[:, None]
