"""Plans: within `without_weights`, networks have their sizes, but no weights are read or loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps

_PLANS: ContextVar[bool] = ContextVar("plans", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Within, every function marked `reads_weights` does nothing."""
    token = _PLANS.set(True)
    try:
        yield
    finally:
        _PLANS.reset(token)


def plans() -> bool:
    """Whether weights are of no interest now."""
    return _PLANS.get()


def reads_weights(function: Callable[..., None]) -> Callable[..., None]:
    """Mark a function that puts the weights of a file into a network."""

    @wraps(function)
    def read(*arguments, **named) -> None:
        if not plans():
            function(*arguments, **named)

    return read
