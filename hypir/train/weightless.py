"""Plans and checks: networks have their sizes, but no weights.

Within `without_weights`, networks are built on the meta device, and functions marked
`reads_weights` do nothing. Within `with_files` they read the files that the user gave, to find out
whether these fit: what is put into a network on the meta device goes nowhere.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps

_PLANS: ContextVar[bool] = ContextVar("plans", default=False)
_FILES: ContextVar[bool] = ContextVar("files", default=True)


@contextmanager
def without_weights() -> Iterator[None]:
    """Within, no weights are read at all."""
    tokens = _PLANS.set(True), _FILES.set(False)
    try:
        yield
    finally:
        _PLANS.reset(tokens[0])
        _FILES.reset(tokens[1])


@contextmanager
def with_files() -> Iterator[None]:
    """Within, networks have no weights, but given files are read and checked."""
    token = _PLANS.set(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
            yield
    finally:
        _PLANS.reset(token)


def plans() -> bool:
    """Whether networks are built without weights."""
    return _PLANS.get()


def reads_files() -> bool:
    """Whether the files that the user gave are read."""
    return _FILES.get()


def reads_weights(function: Callable[..., None]) -> Callable[..., None]:
    """Mark a function that puts the weights of a file into a network."""

    @wraps(function)
    def read(*arguments, **named) -> None:
        if reads_files():
            function(*arguments, **named)

    return read
