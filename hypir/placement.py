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
        mirrored, turned or shifted; UNKNOWN for a latent of another size or another picture.
    """
    if now.shape[1:] != before.shape[1:]:
        return UNKNOWN
    old = [_detail(item) for item in before]
    places = set()
    for i, item in enumerate(now):
        # In the order of a repeated batch first, so that the usual case is one comparison.
        order = sorted(range(len(before)), key=lambda j, i=i: j != i % len(before))
        if not any(_is_partly_equal(before[j], item) for j in order):
            places.add(_place([_likeness(old[j], _detail(item)) for j in order]))
    return next((p for p in (MOVED, UNKNOWN) if p in places), KEPT)


def _place(likenesses: list[tuple[float, float]]) -> str:
    if any(still > 0 and still >= elsewhere - MARGIN for still, elsewhere in likenesses):
        return KEPT
    return MOVED if any(elsewhere >= FOUND for _, elsewhere in likenesses) else UNKNOWN


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


def _likeness(before: Tensor, now: Tensor) -> tuple[float, float]:
    """Correlation in place, and the greatest at any other place or turn; both -1 to 1."""
    scale = float(before.norm() * now.norm())
    if scale == 0:
        return 0.0, 0.0
    target = torch.fft.rfft2(now)
    best = -1.0
    still = 0.0
    for axes in _TURNS:
        turned = before.flip(axes) if axes else before
        spectrum = (torch.fft.rfft2(turned).conj() * target).sum(dim=0)
        found = torch.fft.irfft2(spectrum, s=before.shape[-2:]) / scale
        if not axes:
            still = float(found[0, 0])
            found[0, 0] = -1.0
        best = max(best, float(found.max()))
    return still, best
