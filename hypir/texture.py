"""Texture richness: a number for how busy a picture is, and ways to ask for it.

The paper conditions on statistics of the Laplacian response without publishing the formula; the
definition here is this project's own. Legend:

    Y        luma of BT.601, 0.299 R + 0.587 G + 0.114 B, in [0,1]
    L        Y convolved with [[0,1,0],[1,-4,1],[0,1,0]], symmetric padding
    sigma    standard deviation of L over the picture, a mask or a window
    richness log2(sigma / 0.005) / 6: sigma 0.005 gives 0 and 0.32 gives 1, a sixth is a doubling

Richness is not clipped where it is computed, only on maps. Sharp photographs of 512 px read about
0.75 to 0.82, the same ones enlarged 4x 0.05 to 0.3. Noise reads as texture, so the number says
little about a degraded picture: measure clean ones. Large sums are formed in float64 on the CPU, as
running sums over a large picture lose too much in float32.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA_AT_ZERO = 0.005  # sigma of richness 0
DOUBLINGS = 6  # doublings of sigma from richness 0 to 1
SIGMA_FLOOR = 1e-6  # a flat picture counts as this: richness -2.05 instead of minus infinity
WINDOW_PX = 128  # of the map: tells sky from grass in one photo, still 16,384 samples

GAIN_BOUNDS = (0.0, 4.0)  # 4 = two doublings, a third of the whole scale
MET_WITHIN = 0.005  # a picture this near to the target is returned as it is
SEARCH_WITHIN = 0.001  # the search ends here
DETAIL_RADIUS_PX = 3  # wider windows gave wider halos and no more reach, by eye and number
DETAIL_FLOOR = 1e-4  # variance (0.01 squared) below which the source counts as flat


class TextureMatch(NamedTuple):
    """What match_texture gives."""

    image: Tensor
    """(B,H,W,C) in [0,1]; the very same tensor as the input when nothing had to change."""
    richness: Tensor
    """(B,) float32 on the CPU, measured on `image`."""
    gain: Tensor
    """(B,) float32 on the CPU, factor of the restored detail, within GAIN_BOUNDS; 1 = unchanged."""


def sigma_to_richness(sigma: Tensor) -> Tensor:
    """log2(sigma / 0.005) / 6, unclipped; sigma counts as at least 1e-6."""
    return torch.log2(sigma.clamp_min(SIGMA_FLOOR) / SIGMA_AT_ZERO) / DOUBLINGS


def richness_to_sigma(richness: Tensor) -> Tensor:
    """0.005 * 2^(6 richness), the inverse of sigma_to_richness above the floor."""
    return SIGMA_AT_ZERO * torch.exp2(DOUBLINGS * richness)


def luma(image: Tensor) -> Tensor:
    """BT.601 luma (B,H,W) in float32 of an image (B,H,W,C); alpha does not count, gray is luma."""
    image = image.float()
    if image.shape[-1] < 3:
        return image[..., 0]
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601


def laplacian_response(plane: Tensor) -> Tensor:
    """Laplacian of planes (B,H,W) with symmetric padding, same size, from 1x1 up.

    Padding symmetrically by one pixel repeats the edge. Differences are summed, rather than four
    times the centre subtracted, so that a flat plane answers exactly 0.
    """
    padded = F.pad(plane[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    up, down = padded[:, :-2, 1:-1] - plane, padded[:, 2:, 1:-1] - plane
    left, right = padded[:, 1:-1, :-2] - plane, padded[:, 1:-1, 2:] - plane
    return (up + down) + (left + right)


def measure_richness(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Texture richness of each picture of a batch.

    Args:
        image: (B,H,W,C) in [0,1].
        mask: (B or 1,H,W) in [0,1] of the same size: weight of each pixel.

    Returns:
        (B,) float32, unclipped.

    Raises:
        ValueError: if the mask has another size or batch, or leaves nothing of a picture.
    """
    response = laplacian_response(luma(image))
    if mask is None:
        return sigma_to_richness(response.flatten(1).std(dim=1, correction=0))
    batch, *size = response.shape
    if mask.ndim != 3 or list(mask.shape[1:]) != size or mask.shape[0] not in (1, batch):
        raise ValueError(
            f"mask must have the image's batch (or 1), height and width {tuple(response.shape)}, "
            f"got {tuple(mask.shape)}; resize the mask to the image"
        )
    weight = mask.to(response).clamp(0, 1).expand_as(response).flatten(1)
    total = weight.sum(dim=1, keepdim=True)
    if not (total > 0).all():
        raise ValueError("mask is empty: no pixel is left to measure; paint at least one pixel")
    weight, response = weight / total, response.flatten(1)
    deviation = response - (weight * response).sum(dim=1, keepdim=True)
    return sigma_to_richness((weight * deviation**2).sum(dim=1).sqrt())


def richness_map(image: Tensor, window: int = WINDOW_PX) -> Tensor:
    """Texture richness around each pixel, as a mask.

    The standard deviation is taken over a square window centred on the pixel and cut at the border
    of the picture; a window of twice the picture's sides reads measure_richness everywhere.

    Args:
        image: (B,H,W,C) in [0,1].
        window: side of the window in pixels, from 1.

    Returns:
        (B,H,W) float32, clipped to [0,1].

    Raises:
        ValueError: if the window is smaller than one pixel.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 pixel, got {window}")
    response = laplacian_response(luma(image)).cpu().double()
    mean = _box_mean(response, window)
    variance = (_box_mean(response**2, window) - mean**2).clamp_min(0)
    return sigma_to_richness(variance.sqrt()).clamp(0, 1).to(image.device, torch.float32)


def match_texture(image: Tensor, source: Tensor, richness: float | Sequence[float]) -> TextureMatch:
    """Scale the restored detail of each picture until its richness is the one asked for.

    Restored detail D is the part of the restored luma that the source cannot explain: what remains
    after a local linear fit of the restored luma by the source's (guided filter, He et al. 2010,
    windows of 7 px). Edges that the source already has stay, its noise does not come back when
    detail is turned down, and a smooth change of tone is no detail. The result is

        clamp(image + (gain - 1) * D, 0, 1)

    with D added alike to red, green and blue, so that colour differences stay. Apart from the
    clamp, sigma(gain)^2 is a parabola; the gain stays on its rising side and within GAIN_BOUNDS, so
    that more asked is more given. The clamp is inside the search: the richness reached is that of
    the result.

    Args:
        image: restored picture (B,H,W,C) in [0,1]; alpha is kept.
        source: the enlarged input, (B or 1,H,W,C), of the same size.
        richness: target, one for all or one per picture.

    Returns:
        TextureMatch. A picture within 0.005 of its target is returned to the bit, with gain 1; the
        others end within 0.001 unless the bounds stop them, which the caller sees from `richness`.

    Raises:
        ValueError: if the source has another size, or a target is not finite or not one per
            picture.
    """
    batch = image.shape[0]
    given = [richness] * batch if isinstance(richness, int | float) else list(richness)
    targets = [float(target) for target in given]
    if len(targets) != batch:
        raise ValueError(f"{batch} images need {batch} richness targets, got {len(targets)}")
    for target in targets:
        if not math.isfinite(target):
            raise ValueError(f"richness must be a finite number, got {target}")
    if source.shape[1:3] != image.shape[1:3] or source.shape[0] not in (1, batch):
        raise ValueError(
            "source must have the image's batch (or 1), height and width "
            f"{tuple(image.shape[:3])}, got {tuple(source.shape[:3])}; "
            "enlarge the source to the restored size first"
        )
    sources = source.expand(batch, *source.shape[1:])
    matches = [_match_one(image[i : i + 1], sources[i : i + 1], targets[i]) for i in range(batch)]
    reached = torch.cat([match.richness for match in matches])
    gains = torch.cat([match.gain for match in matches])
    if bool((gains == 1).all()):
        return TextureMatch(image, reached, gains)
    return TextureMatch(torch.cat([match.image for match in matches]), reached, gains)


def _match_one(image: Tensor, source: Tensor, target: float) -> TextureMatch:
    """match_texture for a batch of one."""

    def match(result: Tensor, value: float, gain: float) -> TextureMatch:
        return TextureMatch(result, torch.tensor([value]), torch.tensor([gain]))

    now = float(measure_richness(image))
    if abs(now - target) <= MET_WITHIN:
        return match(image, now, 1.0)
    plane = luma(image)
    detail = _restored_detail(plane, luma(source))
    base, slope = laplacian_response(plane - detail), laplacian_response(detail)
    # sigma(gain)^2 = a + 2 b gain + c gain^2 before the clamp
    a, c = float(base.var(correction=0)), float(slope.var(correction=0))
    b = float(((base - base.mean()) * (slope - slope.mean())).mean())
    if c <= SIGMA_FLOOR**2:
        return match(image, now, 1.0)  # nothing was restored: no gain changes anything

    def scaled(gain: float) -> tuple[Tensor, float]:
        colours = (image[..., :3].float() + (gain - 1) * detail[..., None]).clamp(0, 1)
        result = torch.cat([colours.to(image.dtype), image[..., 3:]], dim=-1)
        return result, float(measure_richness(result))

    least, most = GAIN_BOUNDS
    low, high = (1.0, most) if target > now else (min(max(-b / c, least), 1.0), 1.0)
    bound = high if target > now else low
    result, value = scaled(bound)
    if (value - target) * (now - target) >= 0:  # the bound does not reach past the target
        return match(result, value, bound)
    variance = float(richness_to_sigma(torch.tensor(target))) ** 2
    gain = (math.sqrt(max(b * b - c * (a - variance), 0.0)) - b) / c  # right but for the clamp
    for _ in range(24):
        if not low < gain < high:
            gain = (low + high) / 2
        result, value = scaled(gain)
        if abs(value - target) <= SEARCH_WITHIN:
            break
        low, high = (gain, high) if value < target else (low, gain)
        gain = (low + high) / 2
    return match(result, value, gain)


def _restored_detail(restored: Tensor, source: Tensor) -> Tensor:
    """Restored luma minus its guided filtering by the source's luma, both (1,H,W); float32."""
    guide, plane = source.cpu().double(), restored.cpu().double()
    window = 2 * DETAIL_RADIUS_PX + 1
    guide_mean, plane_mean = _box_mean(guide, window), _box_mean(plane, window)
    covariance = _box_mean(guide * plane, window) - guide_mean * plane_mean
    variance = (_box_mean(guide**2, window) - guide_mean**2).clamp_min(0)
    slope = covariance / (variance + DETAIL_FLOOR)
    offset = plane_mean - slope * guide_mean
    explained = _box_mean(slope, window) * guide + _box_mean(offset, window)
    return (plane - explained).to(restored.device, torch.float32)


def _box_mean(plane: Tensor, window: int) -> Tensor:
    """Mean over the window around each pixel of (B,H,W), cut at the borders; wants float64."""
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
    """Fresh weights of the richness embedding; the token is zero until they are trained.

    Args:
        width: width of the prior's text tokens.
        hidden: width of the hidden layer.
        num_frequencies: Fourier frequencies, from 1/4 to 8 periods per unit of richness, evenly
            spaced in logarithm: the slowest tells the ends of the scale apart, the fastest steps of
            0.03.
        seed: of the first layer; the last one starts at zero.

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
    """Raise unless the weights are a whole richness embedding for tokens of this width.

    Raises:
        ValueError: names the first missing, unknown, misshapen or not finite tensor.
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
                f"texture MLP tensor '{name}' must hold floating point numbers, "
                f"got {weights[name].dtype}"
            )
        if not torch.isfinite(weights[name].float()).all():
            raise ValueError(f"texture MLP tensor '{name}' holds NaN or infinity")


def embed_richness(richness: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """One token per picture that tells the network how rich its texture shall be.

    features = [sin(2 pi f r), cos(2 pi f r)] (Tancik et al. 2020), token = out(silu(in(features))).

    Args:
        richness: r, (B,), unclipped.
        weights: as init_texture_mlp gives them.

    Returns:
        (B,1,width) on the weights' device and in their dtype.
    """
    first = weights["in.weight"]
    richness = richness.to(first.device, torch.float32)
    phase = 2 * math.pi * richness[:, None] * weights["frequencies"].float()
    features = torch.cat([phase.sin(), phase.cos()], dim=-1).to(first.dtype)
    inner = F.silu(F.linear(features, first, weights["in.bias"]))
    return F.linear(inner, weights["out.weight"], weights["out.bias"])[:, None]
