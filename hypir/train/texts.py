"""Text files as people have them: captions and tables in the encodings that programs write."""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with UTF-16's mark: must come before it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
FOREIGN_WORD = re.compile(rb"[\x80-\xff]{4}")
"""Four letters beyond ASCII in a row: no word of a Western language, but one of any other."""


def decode_text(content: bytes, name: str) -> str:
    """A text in UTF-8, UTF-16 or UTF-32 (by mark, or UTF-16 without), or Windows' Western encoding.

    Args:
        content: of the file.
        name: for messages.

    Raises:
        ValueError: with the name, if the text is in none of them; a guess would be garbage.
    """
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return _decode(content, encoding, name)
    if content.count(0) * 4 > len(content):  # every other byte of UTF-16 is 0 in ASCII text
        return _decode(content, "utf-16-le" if content[1::2].count(0) > 0 else "utf-16-be", name)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        if FOREIGN_WORD.search(content):
            raise ValueError(
                f"{name} is neither UTF-8 nor UTF-16 nor Western text ({error}); save it as UTF-8"
            ) from error
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
    if "\0" in text:
        raise ValueError(f"{name} is no text: it holds bytes of 0")
    return text


def read_text(file: Path) -> str:
    """decode_text of a file.

    Raises:
        ValueError: with its name, if it cannot be opened or decoded.
    """
    try:
        return decode_text(file.read_bytes(), str(file))
    except OSError as error:
        raise ValueError(f"{file} cannot be opened ({error.strerror})") from error


def read_caption(picture: Path) -> str:
    """The text of the .txt beside a picture, "" if there is none; errors of read_text."""
    beside = picture.with_suffix(".txt")
    return read_text(beside).strip() if beside.is_file() else ""


def as_caption(value: object, name: str) -> str:
    """A caption as tables and .json files hold it: text, nothing, or a list whose first one counts.

    Raises:
        ValueError: with the name, if it is none of these.
    """
    if isinstance(value, list | tuple):
        value = next(iter(value), None)
    if value is None or value != value:  # NaN: pandas' empty cell
        return ""
    if not isinstance(value, str | int | float):
        raise ValueError(f"the caption of {name} must be text, got {type(value).__name__}")
    return str(value).strip()


def _decode(content: bytes, encoding: str, name: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is cut off or no text in {encoding} ({error})") from error


def readable(read: Callable[[T], str], things: Iterable[T]) -> Iterator[str]:
    """Texts of things, without those that cannot be read."""
    for thing in things:
        try:
            yield read(thing)
        except (OSError, ValueError):
            continue
