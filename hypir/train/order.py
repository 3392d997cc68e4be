"""The order in which the processes of a run take its pictures, by number.

Blocks of numbers go round among the processes, and every process has a pool. A run that resumes
computes which numbers lie in its pools. When it resumes with another number of processes, what lay
in the old pools, or was left of a block, is dealt to the new ones first, and the blocks go on
behind the last: every number comes once (with `pool_uses`, in one pool).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .data import Data, derive_seed

BLOCK = 12
"""Numbers that one process takes in a row: the crops of one canvas of dead leaves."""


@dataclass(frozen=True)
class Order:
    """Which number a process takes when, since the number of processes is what it is."""

    processes: int
    since: int = 0
    """Step at which there came to be so many."""
    waiting: tuple[int, ...] = ()
    """Numbers that are dealt first."""
    first_block: int = 0
    """Block behind all that were begun before."""

    def number(self, k: int, rank: int) -> int:
        """Number in the run of the k-th picture that a process takes."""
        own = self.waiting[rank :: self.processes]
        if k < len(own):
            return own[k]
        block, rest = divmod(k - len(own), BLOCK)
        return (self.first_block + block * self.processes + rank) * BLOCK + rest

    def group(self, k: int, rank: int) -> range:
        """The picks from the k-th on that belong together, to the end of their block."""
        own = len(self.waiting[rank :: self.processes])
        if k < own:
            return range(k, min(k + BLOCK, own))
        return range(k, own + ((k - own) // BLOCK + 1) * BLOCK)

    def changed(
        self, processes: int, step: int, batches: int, asked: Data, seeds: list[int]
    ) -> "Order":
        """The order of another number of processes from a step on.

        Args:
            batches: that every process took since `self.since`.
            seeds: of the pool of every process there was (pool_seed).
        """
        fresh = asked.pool + batches * fresh_per_batch(asked)  # the first pick that is to come
        dealt = [len(self.waiting[rank :: self.processes]) for rank in range(self.processes)]
        rounds = max(max(0, -(-(fresh - own) // BLOCK)) for own in dealt)  # of blocks, begun
        left = []
        for rank, (own, seed) in enumerate(zip(dealt, seeds, strict=True)):
            picks = [*pool_at(asked, seed, batches), *range(fresh, own + rounds * BLOCK)]
            left += [self.number(k, rank) for k in picks]
        return Order(processes, step, tuple(left), self.first_block + rounds * self.processes)

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {**vars(self), "waiting": list(self.waiting)}

    @staticmethod
    def of(state: Mapping[str, Any]) -> "Order":
        """The inverse of `state`."""
        return Order(**{**state, "waiting": tuple(state["waiting"])})


def pool_seed(seed: int, label: str, rank: int) -> int:
    """Of what the pool of a process gives when."""
    return derive_seed(seed, f"pool of {label}", rank)


def fresh_per_batch(asked: Data) -> int:
    """Pictures that a batch takes from the order; the others come from the pool again."""
    return asked.batch // asked.pool_uses if asked.pool else asked.batch


def slots_at(asked: Data, seed: int, batch: int) -> list[int]:
    """Places of the pool that a batch takes; the first `fresh_per_batch` are filled anew."""
    rng = np.random.default_rng([seed, batch])
    return rng.choice(asked.pool, asked.batch, replace=False).tolist()


def pool_at(asked: Data, seed: int, batches: int) -> list[int]:
    """Which picks of a process lie in its pool after some batches, by place.

    From the last batch back, until every place has been filled: some ln(pool) times the pool,
    however long the run is.
    """
    fresh = fresh_per_batch(asked)
    found: dict[int, int] = {}
    batch = batches
    while batch and len(found) < asked.pool:
        batch -= 1
        for j, slot in enumerate(slots_at(asked, seed, batch)[:fresh]):
            found.setdefault(slot, asked.pool + batch * fresh + j)
    return [found.get(slot, slot) for slot in range(asked.pool)]
