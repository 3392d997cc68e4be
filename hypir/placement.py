"""Whether a latent still shows the image of its source latent in the same place.

Nodes between ours can change a latent's values (add, blend, sample again), which leaves the image
in place, or move it (flip, rotate, roll). Circular cross-correlation decides: among all flips,
rotations and shifts of the earlier latent, the similarity with the current one must be greatest for
none. Cells that are equal bit for bit decide it at once: pasting over the rest (composite) moves
nothing.

    c(dy, dx) = sum a(y, x) b(y + dy, x + dx) / (|a| |b|)     by Fourier transform
"""

import torch
from torch import Tensor

MARGIN = 0.02
"""How much more likely another place must be: neighbours in a smooth image are similar."""
FOUND = 0.5
"""Smallest similarity at which an image counts as found in another place."""
PART = 8
"""Side in cells of the parts that are searched individually."""
SETTLED = 0.75
"""Share of the parts that must be in place."""
KEPT, MOVED, UNKNOWN = "kept", "moved", "unknown"

_TURNS = ((), (-1,), (-2,), (-2, -1))
"""Axes of mirroring: none, horizontal, vertical, both (rotated by 180 degrees)."""


def place(before: Tensor, now: Tensor) -> str:
    """Where the images of a latent are, relative to an earlier latent.

    Args:
        before: (A, C, h, w), the latent with known placement.
        now: (B, C, h, w), the latent in question; any order and number of items.

    Returns:
        KEPT if every image of `now` is where one of `before` was; MOVED if one was found mirrored,
        rotated or shifted; UNKNOWN for another size, a stretched image or another image.
    """
    if not isinstance(now, Tensor) or now.shape[1:] != before.shape[1:]:
        return UNKNOWN
    old = [_detail(item) for item in before]
    places = set()
    for i, item in enumerate(now):
        # The order of a repeated batch first, so that the usual case needs one comparison.
        order = sorted(range(len(before)), key=lambda j, i=i: j != i % len(before))
        if not any(_is_partly_equal(before[j], item) for j in order):
            found = {_place(old[j], _detail(item)) for j in order}
            places.add(next(p for p in (KEPT, MOVED, UNKNOWN) if p in found))
    return next((p for p in (MOVED, UNKNOWN) if p in places), KEPT)


def _place(before: Tensor, now: Tensor) -> str:
    """The result for one image; both from _detail."""
    still, elsewhere = _likeness(before, now)
    if still > 0 and still >= elsewhere - MARGIN:
        return UNKNOWN if _is_stretched(before, now) else KEPT
    return MOVED if elsewhere >= FOUND else UNKNOWN


def _is_stretched(before: Tensor, now: Tensor) -> bool:
    """Whether parts of an image are found elsewhere although the whole is in place.

    It was then scaled around a fixed point. Images of less than 4 parts per side (256 px) are too
    small to decide.
    """
    height, width = before.shape[-2:]
    if min(height, width) < 4 * PART:
        return False
    votes = []
    for y in range(0, height - PART + 1, PART):
        for x in range(0, width - PART + 1, PART):
            window = (..., slice(y, y + PART), slice(x, x + PART))
            still, elsewhere = _likeness(before[window], now[window], ((),))
            votes.append(still >= elsewhere - MARGIN)
    return sum(votes) < SETTLED * len(votes)


def _is_partly_equal(before: Tensor, now: Tensor) -> bool:
    """Whether all cells are equal bit for bit, or some that differ from their neighbours are."""
    same = (before == now.to(before)).all(dim=0)
    if bool(same.all()):
        return True
    for dim in (-1, -2):
        same &= (before != before.roll(1, dim)).any(dim=0)
    return bool(same.any())


def _detail(item: Tensor) -> Tensor:
    """(C, h, w) float32 on the CPU without its mean, because flat parts are similar everywhere."""
    item = item.detach().to("cpu", torch.float32)
    return item - item.mean(dim=(-2, -1), keepdim=True)


def _likeness(before: Tensor, now: Tensor, turns=_TURNS) -> tuple[float, float]:
    """Correlation in place, and the greatest at any other place or flip; both from -1 to 1."""
    scale = float(before.norm() * now.norm())
    if scale == 0:
        return 0.0, 0.0
    target = torch.fft.rfft2(now)
    best = -1.0
    still = 0.0
    for axes in turns:
        turned = before.flip(axes) if axes else before
        spectrum = (torch.fft.rfft2(turned).conj() * target).sum(dim=0)
        found = torch.fft.irfft2(spectrum, s=before.shape[-2:]) / scale
        if not axes:
            still = float(found[0, 0])
            found[0, 0] = -1.0
        best = max(best, float(found.max()))
    return still, best
