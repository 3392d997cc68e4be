"""Scale restored detail until an image has the requested texture richness.

Detail, measurement and search run block by block, so no further plane of the image's size is kept
in memory. Sums are in float64.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import Block, OnPart, Parts, blocks
from .texture import (
    SIGMA_FLOOR,
    Sums,
    box_mean,
    inner_part,
    laplacian_response,
    luma,
    richness_to_sigma,
)

GAIN_BOUNDS = (0.0, 4.0)  # 4 = two doublings, a third of the richness scale
MET_WITHIN = 0.005  # an image this close to the target is returned unchanged
SEARCH_WITHIN = 0.001  # the search ends here
DETAIL_RADIUS_PX = 3  # wider windows gave wider halos and no more effect, by eye and in numbers
DETAIL_FLOOR = 1e-4  # variance (0.01 squared) below which the source counts as flat
DETAIL_HALO_PX = 2 * DETAIL_RADIUS_PX  # a mean over windows of means over windows
SEARCH_STEPS = 24
PASSES = 8  # typical number of passes over an image in match_texture


class TextureMatch(NamedTuple):
    """The result of match_texture."""

    image: Tensor
    """(B,H,W,C) in [0,1]; the input tensor itself if nothing had to change."""
    richness: Tensor
    """(B,) float32 on the CPU, measured on `image`."""
    gain: Tensor
    """(B,) float32 on the CPU, factor of the restored detail, within GAIN_BOUNDS; 1 = unchanged."""


def match_texture(
    image: Tensor,
    source: Tensor,
    richness: float | Sequence[float],
    on_part: OnPart | None = None,
) -> TextureMatch:
    """Scale the restored detail of each image until it has the requested richness.

    Restored detail D is the part of the restored luma that the source does not explain: the
        residual
    of a local linear fit of the restored luma by the source's (guided filter, He et al. 2010,
    windows of 7 px). Edges in the source are kept, its noise does not return when detail is
    reduced, and a smooth change of tone does not count as detail. The result is

        clamp(image + (gain - 1) * D, 0, 1)

    with the same D added to red, green and blue, so that colour differences stay. Apart from the
    clamp, sigma(gain)^2 is a parabola; the gain stays on its rising side and within GAIN_BOUNDS, so
    that the result increases with the request. The search includes the clamp: the reported richness
    is that of the result.

    Args:
        image: restored image (B,H,W,C) in [0,1]; alpha is kept.
        source: the enlarged input, (B or 1,H,W,C), of the same size.
        richness: target, one for all or one per image.
        on_part: see blocks.OnPart.

    Returns:
        TextureMatch. Besides the two images and the result only blocks are in memory. An image
        within 0.005 of its target is returned unchanged, with gain 1. Others end within 0.001
        unless the gain reaches a limit, which shows in `richness`.

    Raises:
        ValueError: if the source has another size, a target is not finite, or there is not one
            target per image.
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
            "the the source must have the image's batch (or 1), height and width "
            f"{tuple(image.shape[:3])}, got {tuple(source.shape[:3])}; enlarge the source to the "
            "restored size first"
        )
    result: Tensor | None = None
    reached, gains = [], []
    todo = blocks(*image.shape[1:3], halo=1)
    parts = Parts(on_part, batch, PASSES * len(todo))
    for i, target in enumerate(targets):
        now = _measured(image[i], todo, parts)
        value, gain = now, 1.0
        if abs(now - target) > MET_WITHIN:
            if result is None:
                result = torch.empty_like(image)
                result[:i] = image[:i]
            given = source[i if len(source) > 1 else 0]
            value, gain = _match_one(result[i], image[i], given, target, now, parts)
        elif result is not None:
            result[i] = image[i]
        reached.append(value)
        gains.append(gain)
        parts.end_item()
    changed = any(gain != 1 for gain in gains)
    return TextureMatch(
        result if result is not None and changed else image,
        torch.tensor(reached, dtype=torch.float32),
        torch.tensor(gains, dtype=torch.float32),
    )


def _measured(image: Tensor, todo: list[Block], parts: Parts) -> float:
    """Richness of one image (H,W,C)."""
    sums = Sums()
    for block in todo:
        sums.add(inner_part(laplacian_response(luma(image[block.outer][None])), block))
        parts.tell()
    return sums.richness()


def _match_one(
    result: Tensor, image: Tensor, source: Tensor, target: float, now: float, parts: Parts
) -> tuple[float, float]:
    """match_texture for one image (H,W,C), written into `result`; returns richness and gain.

    During the search, the first channel of the result stores the detail, which does not depend on
    the gain, so no further plane of the image's size is needed.
    """
    todo = blocks(*image.shape[:2], halo=1)
    fits = result.dtype == torch.float32
    detail = result[..., 0] if fits else result.new_empty(result.shape[:2], dtype=torch.float32)
    for block in blocks(*image.shape[:2], halo=DETAIL_HALO_PX):
        planes = (luma(x[block.outer][None]) for x in (image, source))
        detail[block.place] = inner_part(_restored_detail(*planes), block)[0]
        parts.tell()

    # sigma(gain)^2 = a + 2 b gain + c gain^2 before the clamp
    base, slope, both = Sums(), Sums(), Sums()
    for block in todo:
        plane, part = luma(image[block.outer][None]), detail[block.outer][None]
        of_base = inner_part(laplacian_response(plane - part), block)
        of_slope = inner_part(laplacian_response(part), block)
        base.add(of_base)
        slope.add(of_slope)
        both.add(of_base + of_slope)
        parts.tell()
    a, c = base.sigma() ** 2, slope.sigma() ** 2
    b = (both.sigma() ** 2 - a - c) / 2

    def scaled(gain: float, block: Block) -> Tensor:
        change = (gain - 1) * detail[block.outer][..., None]
        colours = (image[block.outer][..., :3].float() + change).clamp(0, 1)
        return colours.to(image.dtype)[None]

    def reached(gain: float) -> float:
        sums = Sums()
        for block in todo:
            sums.add(inner_part(laplacian_response(luma(scaled(gain, block))), block))
            parts.tell()
        return sums.richness()

    # with c at its floor there is no restored detail: the gain has no effect
    value, gain = (now, 1.0) if c <= SIGMA_FLOOR**2 else _search(target, now, (a, b, c), reached)
    for block in blocks(*image.shape[:2]):
        place = result[block.place]
        place[..., :3] = scaled(gain, block)[0]
        place[..., 3:] = image[block.place][..., 3:]
    return value, gain


def _search(
    target: float,
    now: float,
    parabola: tuple[float, float, float],
    reached: Callable[[float], float],
) -> tuple[float, float]:
    """Richness and gain closest to the target; `reached` gives the richness for a gain."""
    a, b, c = parabola
    least, most = GAIN_BOUNDS
    low, high = (1.0, most) if target > now else (min(max(-b / c, least), 1.0), 1.0)
    bound = high if target > now else low
    value = reached(bound)
    if (value - target) * (now - target) >= 0:  # the limit does not reach the target
        return value, bound
    variance = float(richness_to_sigma(torch.tensor(target))) ** 2
    gain = (math.sqrt(max(b * b - c * (a - variance), 0.0)) - b) / c  # exact except for the clamp
    for _ in range(SEARCH_STEPS):
        if not low < gain < high:
            gain = (low + high) / 2
        value = reached(gain)
        if abs(value - target) <= SEARCH_WITHIN:
            break
        low, high = (gain, high) if value < target else (low, gain)
        gain = (low + high) / 2
    return value, gain


def _restored_detail(restored: Tensor, source: Tensor) -> Tensor:
    """Restored luma minus its guided filter by the source's luma, both (1,h,w); float32."""
    guide, plane = source.cpu().double(), restored.cpu().double()
    window = 2 * DETAIL_RADIUS_PX + 1
    guide_mean, plane_mean = box_mean(guide, window), box_mean(plane, window)
    covariance = box_mean(guide * plane, window) - guide_mean * plane_mean
    variance = (box_mean(guide**2, window) - guide_mean**2).clamp_min(0)
    slope = covariance / (variance + DETAIL_FLOOR)
    offset = plane_mean - slope * guide_mean
    explained = box_mean(slope, window) * guide + box_mean(offset, window)
    return (plane - explained).to(restored.device, torch.float32)
