"""Which process takes which picture when, and what a change of their number does to it."""

from __future__ import annotations

import pytest

from hypir.train.data import Data
from hypir.train.order import Order, fresh_per_batch, pool_at, pool_seed, slots_at

ASKED = Data(data=("leaves:",), batch=4, pool=10)


class Process:
    """Takes batches one by one, as a run does that never stops."""

    def __init__(self, order: Order, rank: int, asked: Data = ASKED):
        self._order, self._rank, self._asked = order, rank, asked
        self._seed, self._batch, self._next = pool_seed(0, "stage", rank), 0, asked.pool
        self.pool = [order.number(k, rank) for k in range(asked.pool)]

    def take(self) -> list[int]:
        slots = slots_at(self._asked, self._seed, self._batch)
        taken = [self.pool[slot] for slot in slots]
        for slot in slots[: fresh_per_batch(self._asked)]:
            self.pool[slot] = self._order.number(self._next, self._rank)
            self._next += 1
        self._batch += 1
        return taken


def test_processes_share_no_number_and_leave_none_out():
    numbers = [Order(3).number(k, rank) for rank in range(3) for k in range(48)]
    assert sorted(numbers) == list(range(144))


@pytest.mark.parametrize("uses", [1, 2])
def test_a_pool_is_found_again_without_what_came_before(uses):
    asked = Data(data=("leaves:",), batch=4, pool=10, pool_uses=uses)
    process = Process(Order(2), 1, asked)
    for batches in range(40):
        picks = pool_at(asked, pool_seed(0, "stage", 1), batches)
        assert [Order(2).number(k, 1) for k in picks] == process.pool
        process.take()


def test_finding_a_pool_takes_no_longer_late_in_a_run():
    # walking through all batches would take hours
    picks = pool_at(ASKED, 0, 10**9)
    assert len(set(picks)) == 10 and min(picks) > 3.9 * 10**9


@pytest.mark.parametrize("counts", [(2, 3), (3, 1), (1, 4, 2), (2, 2, 3)])
@pytest.mark.parametrize("batches", [1, 2, 3, 7, 20])
def test_another_number_of_processes_takes_every_number_once(counts, batches):
    order, taken = Order(counts[0]), []
    for i, count in enumerate(counts):
        if i and count != order.processes:
            seeds = [pool_seed(0, "stage", rank) for rank in range(order.processes)]
            order = order.changed(count, i, batches, ASKED, seeds)
        elif i:
            continue
        processes = [Process(order, rank) for rank in range(count)]
        taken += [n for _ in range(batches) for p in processes for n in p.take()]
    assert len(taken) == len(set(taken))
    # a last change tells what is still to come: with it there is no gap
    seeds = [pool_seed(0, "stage", rank) for rank in range(order.processes)]
    last = order.changed(1, 9, batches, ASKED, seeds)
    assert sorted([*taken, *last.waiting]) == list(range(12 * last.first_block))


def test_an_order_outlives_a_checkpoint():
    order = Order(2).changed(3, 5, 4, ASKED, [1, 2])
    assert Order.of(order.state()) == order and order.since == 5
