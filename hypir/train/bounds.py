"""Allowed values of a recipe's fields: declared with each field, checked in one place.

    @settings
    class Data:
        crop: Annotated[int, Bounds(16, 4096, "px", multiple=16)] = 512
        posterior: Literal["mean", "sample"] = "mean"

A group of fields checks itself when created. The same declarations describe an option of the
command line (`describe`) and read it (`parse`).
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Bounds:
    """Inclusive bounds of a number, or of every number of a tuple."""

    low: float
    high: float
    unit: str = ""
    """Readable unit: px, steps, images, share ..."""
    multiple: int = 1
    """A whole number must be a multiple of this."""
    also: tuple[float, ...] = ()
    """Allowed values outside the bounds, with a special meaning."""


@dataclass(frozen=True)
class Filled:
    """A text must not be empty; a tuple must have entries, none of them empty."""

    hint: str
    """Readable description of the allowed text."""


@dataclass(frozen=True)
class Help:
    """Help text of a field that has no docstring below it."""

    text: str


Share = Annotated[float, Bounds(0, 1)]


def settings(cls: type) -> type:
    """A frozen, keyword-only dataclass whose fields are checked on creation.

    A method `rules` is called after that, to check rules between fields.
    """

    def check(self) -> None:
        for name, hint in hints(type(self)).items():
            check_value(name, getattr(self, name), hint)
        if hasattr(self, "rules"):
            self.rules()

    cls.__post_init__ = check
    return dataclass(frozen=True, kw_only=True)(cls)


@cache
def hints(cls: type) -> Mapping[str, Any]:
    """Declared type of every field, with its bounds."""
    found = get_type_hints(cls, include_extras=True)
    return types.MappingProxyType({f.name: found[f.name] for f in dataclasses.fields(cls)})


def check_value(name: str, value: Any, hint: Any) -> None:
    """Check a value against a field's type.

    Raises:
        ValueError: with what must hold and what was found.
    """
    kind, marks = unwrap(hint)
    if _fits(value, kind, marks):
        return
    if _element(kind) is not None and _length(kind) is None and isinstance(value, tuple):
        for entry in value:
            check_value(f"each of {name}", entry, _element(kind))
    raise ValueError(f"{name} must be {describe(hint)}, got {show(value) or 'nothing'}")


def parse(name: str, text: str, hint: Any) -> Any:
    """The value of a text from the command line, checked.

    Raises:
        ValueError: with what must hold and what was found.
    """
    kind, _ = unwrap(hint)
    element = _element(kind)
    if element is not None and _length(kind) is None:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        value = tuple(parse(f"each of {name}", part, element) for part in parts)
        check_value(name, value, hint)
        return value
    try:
        if hasattr(kind, "parse"):
            return kind.parse(text)
        if element is not None:
            value = tuple(map(unwrap(element)[0], text.split(",")))
        else:
            value = text if get_origin(kind) is Literal else kind(text)
    except ValueError as error:
        why = f": {error}" if hasattr(kind, "parse") else f" must be {describe(hint)}, got {text!r}"
        raise ValueError(name + why) from None
    check_value(name, value, hint)
    return value


def describe(hint: Any) -> str:
    """What a field may hold, for people: "a whole number from 16 to 4096 px"."""
    kind, marks = unwrap(hint)
    filled = next((m.hint for m in marks if isinstance(m, Filled)), "")
    element = _element(kind)
    if element is not None:
        count = _length(kind)
        every = describe(element)
        many = f"{count} entries" if count else "one or more" if filled else "a list"
        return f"{many}, separated by commas, each {every}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(show, get_args(kind)))}"
    if kind in (int, float):
        bounds = next(m for m in marks if isinstance(m, Bounds))
        return f"{'a whole number' if kind is int else 'a number'} from {_span(bounds)}"
    if kind is bool:
        return "on or off"
    if hasattr(kind, "parse"):
        return kind.FORM
    return filled or "a text"


def range_of(hint: Any) -> str:
    """Bounds and unit of a number, "" for what is none: "16 to 4096 px, a multiple of 16"."""
    bounds = next((m for m in unwrap(hint)[1] if isinstance(m, Bounds)), None)
    return _span(bounds) if bounds else ""


def show(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, tuple | list):
        return ",".join(map(show, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def unwrap(hint: Any) -> tuple[Any, tuple]:
    """(type, marks) of a declared type."""
    if get_origin(hint) is Annotated:
        kind, *marks = get_args(hint)
        return kind, tuple(marks)
    return hint, ()


def _fits(value: Any, kind: Any, marks: tuple) -> bool:
    filled = any(isinstance(m, Filled) for m in marks)
    element = _element(kind)
    if element is not None:
        count = _length(kind)
        if not isinstance(value, tuple) or (filled and not value):
            return False
        inner, own = unwrap(element)
        return (count is None or len(value) == count) and all(
            _fits(v, inner, (*own, *marks)) for v in value
        )
    if get_origin(kind) is Literal:
        return any(value == c and type(value) is type(c) for c in get_args(kind))
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float if kind is float else int):
            return False
        return _within(value, next(m for m in marks if isinstance(m, Bounds)))
    if kind is str and isinstance(value, str):
        return bool(value.strip()) or not filled
    return isinstance(value, kind)


def _within(value: float, bounds: Bounds) -> bool:
    if value in bounds.also:
        return True
    inside = math.isfinite(value) and bounds.low <= value <= bounds.high
    return inside and (bounds.multiple == 1 or value % bounds.multiple == 0)


def _span(bounds: Bounds) -> str:
    text = f"{_plain(bounds.low)} to {_plain(bounds.high)}"
    text += f" {bounds.unit}" if bounds.unit else ""
    text += f", a multiple of {bounds.multiple}" if bounds.multiple != 1 else ""
    return text + "".join(f", or {_plain(x)}" for x in bounds.also)


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _element(kind: Any) -> Any:
    """Type of a tuple's entries, None for what is no tuple."""
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def _length(kind: Any) -> int | None:
    """Length of a tuple type, None for any."""
    arguments = get_args(kind)
    return None if arguments[-1] is Ellipsis else len(arguments)
