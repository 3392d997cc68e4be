"""The raters' answers: one CSV for each, a line for each answer, on disk before the next page.

An answer is never changed in place. A rater who goes back writes a second line; the last line about
a question counts.
"""

import csv
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

SKIP = "skip"
FIRST, SECOND, NEITHER = "first", "second", "no difference"
HIGHEST = 10
COLUMNS = ("time", "rater", "kind", "round", "number", "photo", "method", "other", "repeat")
COLUMNS += ("seconds", "value")


class Question(NamedTuple):
    """What a rater is asked once."""

    kind: str
    """mark or pair."""
    round: int
    """From 1."""
    number: int
    """Its place in the rater's order over all rounds, from 0."""
    photo: str
    """Name of the photo."""
    method: str
    """Method of the picture, or of the first of a pair."""
    other: str
    """Method of the second of a pair; empty for a mark."""
    repeat: bool
    """Whether it was asked before in the same round."""


class Answer(NamedTuple):
    """A question with what a rater said."""

    rater: str
    """The rater's code."""
    question: Question
    """The question."""
    value: str
    """0 to 10, skip, or for pairs first, second, no difference."""


def add_answer(folder: Path, answer: Answer, seconds: float) -> None:
    """Append an answer to the rater's file; when this returns it is on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{answer.rater}.csv"
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    asked = answer.question
    row = [now, answer.rater, asked.kind, asked.round, asked.number, asked.photo, asked.method]
    row += [asked.other, int(asked.repeat), f"{seconds:.1f}", answer.value]
    with open(file, "a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":  # a power cut in the middle of a line
                stream.write(b"\n")
        rows = [row] if stream.tell() else [COLUMNS, row]
        stream.write("".join(map(_line, rows)).encode())
        stream.flush()
        os.fsync(stream.fileno())


def _line(cells: Iterable[object]) -> str:
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def read_answers(folder: Path, rater: str | None = None) -> list[Answer]:
    """The last answer of each rater to each question; lines that were cut off are left out."""
    last: dict[tuple, Answer] = {}
    for file in sorted(folder.glob("*.csv")):
        if rater is not None and file.stem != rater:
            continue
        with open(file, newline="", encoding="utf-8", errors="replace") as stream:
            for row in csv.DictReader(stream):
                answer = _answer(row)
                if answer is not None:
                    asked = answer.question
                    last[answer.rater, asked.kind, asked.number] = answer
    return list(last.values())


def _answer(row: dict[str, str]) -> Answer | None:
    try:
        question = Question(
            row["kind"],
            int(row["round"]),
            int(row["number"]),
            row["photo"],
            row["method"],
            row["other"],
            row["repeat"] == "1",
        )
        value = row["value"]
    except (KeyError, TypeError, ValueError):
        return None
    return Answer(row["rater"], question, value) if is_value(question.kind, value) else None


def is_value(kind: str, value: object) -> bool:
    """Whether a value may answer a question of a kind."""
    if value == SKIP:
        return True
    if kind == "pair":
        return value in (FIRST, SECOND, NEITHER)
    return value in [str(mark) for mark in range(HIGHEST + 1)]
