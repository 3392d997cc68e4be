"""Images in blocks: they bound the memory of a long loop and allow it to be stopped.

A filter with a reach of `halo` pixels gives the same result block by block, with that margin around
each, as on the whole image. After every block the caller is notified and can raise to end the loop.
"""

from collections.abc import Callable
from typing import NamedTuple

SIDE_PX = 512
"""Side of a block: a few MB per plane of a filter, and tenths of a second of computation."""
OnPart = Callable[[int, int], None]
"""Called after each part of a loop with (parts done, total parts)."""
OnBlock = Callable[[], None]
"""Called after each block of a step that does not know how many steps there are."""
Slices = tuple[slice, slice]


class Block(NamedTuple):
    """A rectangle of an image, as (rows, columns)."""

    place: Slices
    """The place of its result."""
    outer: Slices
    """The input for it: with the halo around it, cut at the image's edges."""
    inner: Slices
    """The place within `outer`."""


def blocks(height: int, width: int, halo: int = 0, side: int = SIDE_PX) -> list[Block]:
    """Blocks that cover an image once, row by row; a single one if it is no larger than `side`."""
    return [
        Block(*((row, column) for row, column in zip(rows, columns, strict=True)))
        for rows in _spans(height, halo, side)
        for columns in _spans(width, halo, side)
    ]


def tell(on_block: OnBlock | None) -> None:
    """Call it, if there is one."""
    if on_block is not None:
        on_block()


class Parts:
    """Reports the progress of a loop over the items of a batch, after each part."""

    def __init__(self, on_part: OnPart | None, items: int, parts: int):
        """`parts`: approximate number per item; further ones are reported as the last but one."""
        self._on_part, self._items, self._parts = on_part, items, parts
        self._item = self._part = 0

    def tell(self) -> None:
        """Report a finished part of the item."""
        self._part = min(self._part + 1, self._parts - 1)
        self._say()

    def end_item(self) -> None:
        """Report that the item is finished."""
        self._item, self._part = self._item + 1, 0
        self._say()

    def _say(self) -> None:
        if self._on_part is not None:
            self._on_part(self._item * self._parts + self._part, self._items * self._parts)


def _spans(length: int, halo: int, side: int) -> list[tuple[slice, slice, slice]]:
    """(place, outer, inner) along one axis."""
    spans = []
    for start in range(0, length, side):
        stop = min(start + side, length)
        first, last = max(start - halo, 0), min(stop + halo, length)
        spans.append((slice(start, stop), slice(first, last), slice(start - first, stop - first)))
    return spans
