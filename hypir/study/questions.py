"""What a rater is asked, in an order of the rater's own that a restart finds again."""

import hashlib
import itertools
import random
from collections.abc import Sequence

from .marks import Question

REPEATS = 0.1
"""Share of the questions that are asked a second time, unannounced."""


def questions(
    methods: Sequence[str],
    photos: Sequence[str],
    key: str,
    rounds: int = 1,
    pairs: bool = False,
    repeats: float = REPEATS,
) -> list[Question]:
    """All questions of a rater, in order.

    Every round asks about every picture (or pair of methods on a photo) once, shuffled anew, and
    about a share of its first half again in its second half. Which of a pair comes first is drawn.

    Args:
        methods, photos: names.
        key: what the order is drawn from: the same key gives the same order.
        rounds: how often everything is asked, at least 1.
        pairs: whether two methods are compared, instead of one marked.
        repeats: share of the questions of a round that is asked twice, in [0, 0.5].

    Raises:
        ValueError: if pairs are asked of fewer than two methods, or a number is out of its range.
    """
    if rounds < 1:
        raise ValueError(f"a study needs at least one round, got {rounds}")
    if not 0 <= repeats <= 0.5:
        raise ValueError(f"the share of repeats must be in [0, 0.5], got {repeats}")
    if pairs and len(methods) < 2:
        raise ValueError(f"pairs need at least two methods, got {len(methods)}")
    kind = "pair" if pairs else "mark"
    found: list[Question] = []
    for round_ in range(1, rounds + 1):
        draw = random.Random(hashlib.sha256(f"{key}/{kind}/{round_}".encode()).digest())
        if pairs:
            asked = [
                (photo, *draw.sample(pair, 2))
                for photo in photos
                for pair in itertools.combinations(methods, 2)
            ]
        else:
            asked = [(photo, method, "") for photo in photos for method in methods]
        once = _apart(asked, draw)
        again = _repeats(once, round(repeats * len(once)), draw)
        for repeat, (photo, method, other) in again:
            found.append(Question(kind, round_, len(found), photo, method, other, repeat))
    return found


def _apart(asked: list[tuple], draw: random.Random) -> list[tuple]:
    """Shuffled, with the same photo not twice in a row where another is left."""
    waiting = list(asked)
    draw.shuffle(waiting)
    order: list[tuple] = []
    while waiting:
        other = (i for i, one in enumerate(waiting) if not order or one[0] != order[-1][0])
        order.append(waiting.pop(next(other, 0)))
    return order


def _repeats(order: list[tuple], count: int, draw: random.Random) -> list[tuple[bool, tuple]]:
    """Some of the first half once more, at places of the second half; a pair with sides swapped."""
    half = len(order) // 2
    result = [(False, one) for one in order]
    for photo, method, other in draw.sample(order[:half], min(count, half)):
        again = (photo, other, method) if other else (photo, method, other)
        place = draw.randint(half + 1, len(result))
        result.insert(place, (True, again))
    return result
