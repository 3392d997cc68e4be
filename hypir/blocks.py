"""Pictures in blocks: what bounds the memory of a long loop, and where it can be stopped.

A filter that reaches `halo` pixels gives, block by block with that much around each, what it gives
on the whole picture. After every block the caller of the loop is told, who may raise to end it.
"""

from collections.abc import Callable
from typing import NamedTuple

SIDE_PX = 512
"""Side of a block: a few MB for each plane that a filter holds, and tenths of a second of work."""
OnPart = Callable[[int, int], None]
"""Called after each part of a loop with (parts done, parts in all)."""
OnBlock = Callable[[], None]
"""Called after each block of a step that does not know how many steps there are."""
Slices = tuple[slice, slice]


class Block(NamedTuple):
    """A rectangle of a picture, as (rows, columns)."""

    place: Slices
    """Where its result belongs."""
    outer: Slices
    """What is read for it: more by the halo, cut at the picture's edges."""
    inner: Slices
    """Its place within `outer`."""


def blocks(height: int, width: int, halo: int = 0, side: int = SIDE_PX) -> list[Block]:
    """Blocks that cover a picture once, row by row; one if it is no larger than `side`."""
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
    """How far a loop over the items of a batch is, told after each part."""

    def __init__(self, on_part: OnPart | None, items: int, parts: int):
        """`parts`: of an item, or about so many; those beyond are told as the last but one."""
        self._on_part, self._items, self._parts = on_part, items, parts
        self._item = self._part = 0

    def tell(self) -> None:
        """A part of the item is done."""
        self._part = min(self._part + 1, self._parts - 1)
        self._say()

    def end_item(self) -> None:
        """All of the item is done."""
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
