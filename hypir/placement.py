"""Whether a latent still shows, in its place, the picture of the latent it came from.

Nodes between two of ours may change a latent's values (add, blend, sample again), which leaves the
picture where it is, or move it (flip, rotate, roll), which does not. The place is found by circular
cross-correlation: of the latent as it was, turned and shifted in every way, the likeness with the
latent as it is must be greatest for the one that is neither. Cells that came through to the bit
settle it beforehand: what was pasted over the rest (composite) moves nothing.

    c(dy, dx) = sum a(y, x) b(y + dy, x + dx) / (|a| |b|)     by Fourier transform
"""

import torch
from torch import Tensor

MARGIN = 0.02
"""How much likelier another place must be: neighbours in a smooth picture are much alike."""
FOUND = 0.5
"""From which likeness on a picture counts as found at another place."""
PART = 8
"""Cells along a side of the parts that are looked for one by one."""
SETTLED = 0.75
"""Share of the parts that must be in their place."""
KEPT, MOVED, UNKNOWN = "kept", "moved", "unknown"

_TURNS = ((), (-1,), (-2,), (-2, -1))
"""Axes along which a picture is mirrored: not at all, across, down, turned by half."""


def place(before: Tensor, now: Tensor) -> str:
    """Where the pictures of a latent lie that came from another.

    Args:
        before: (A, C, h, w), the latent whose place is known.
        now: (B, C, h, w), the latent in question; any order and number of items.

    Returns:
        KEPT if every picture of `now` lies where one of `before` lay; MOVED if one was found
        mirrored, turned or shifted; UNKNOWN for one of another size, stretched, or of another
        picture.
    """
    if now.shape[1:] != before.shape[1:]:
        return UNKNOWN
    old = [_detail(item) for item in before]
    places = set()
    for i, item in enumerate(now):
        # In the order of a repeated batch first, so that the usual case is one comparison.
        order = sorted(range(len(before)), key=lambda j, i=i: j != i % len(before))
        if not any(_is_partly_equal(before[j], item) for j in order):
            found = {_place(old[j], _detail(item)) for j in order}
            places.add(next(p for p in (KEPT, MOVED, UNKNOWN) if p in found))
    return next((p for p in (MOVED, UNKNOWN) if p in places), KEPT)


def _place(before: Tensor, now: Tensor) -> str:
    """Of one picture; both as _detail gives them."""
    still, elsewhere = _likeness(before, now)
    if still > 0 and still >= elsewhere - MARGIN:
        return UNKNOWN if _is_stretched(before, now) else KEPT
    return MOVED if elsewhere >= FOUND else UNKNOWN


def _is_stretched(before: Tensor, now: Tensor) -> bool:
    """Whether parts of a picture are found elsewhere, though the whole is in its place.

    It was enlarged or shrunk around a point that stayed. Pictures of less than 4 parts a side
    (256 px) are too small to tell.
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
    """Whether all cells are the same to the bit, or some that differ from their neighbours are."""
    same = (before == now.to(before)).all(dim=0)
    if bool(same.all()):
        return True
    for dim in (-1, -2):
        same &= (before != before.roll(1, dim)).any(dim=0)
    return bool(same.any())


def _detail(item: Tensor) -> Tensor:
    """(C, h, w) float32 on the CPU without its mean: flat parts look alike everywhere."""
    item = item.detach().to("cpu", torch.float32)
    return item - item.mean(dim=(-2, -1), keepdim=True)


def _likeness(before: Tensor, now: Tensor, turns=_TURNS) -> tuple[float, float]:
    """Correlation in place, and the greatest at any other place or turn; both -1 to 1."""
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
