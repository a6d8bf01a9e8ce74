"""Batches ahead of the step: the order of the positions, the faults of the threads, and a clean end."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from scmf.core.batch import StepBatch
from scmf.core.errors import StoreError
from scmf.data.lookahead import LookAhead
from scmf.data.stream import Draw


class Stream:
    """Ten cells a step; later steps of a group are ready first."""

    noun = "cell"

    def __init__(self, fault=None, at=30):
        self.fault, self.at = fault, at
        self.prepared = []

    def step(self, cells_seen):
        time.sleep(0.002 * (3 - cells_seen // 10 % 4))
        self.prepared.append(cells_seen)
        if self.fault and cells_seen == self.at:
            raise self.fault
        return StepBatch((), cells=10, cell_ids=self.draw(cells_seen).cell_ids)

    def draw(self, cells_seen):
        return Draw(np.arange(cells_seen, cells_seen + 10), np.zeros(10, np.uint64))


def _ahead(stream, *, workers, start=0, depth=3):
    return LookAhead(stream, start=start, global_batch_size=10, workers=workers, depth=depth)


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_batches_come_in_order_whatever_the_number_of_workers(workers):
    with _ahead(Stream(), workers=workers, start=20) as batches:
        firsts = [int(next(batches).cell_ids[0]) for _ in range(12)]
    assert firsts == list(range(20, 140, 10))


def test_no_more_is_prepared_than_asked_for():
    stream = Stream()
    with _ahead(stream, workers=2, depth=3) as batches:
        next(batches)
        time.sleep(0.1)
        assert sorted(stream.prepared) == [0, 10, 20, 30]
    stream = Stream()
    with _ahead(stream, workers=0, depth=3) as batches:
        next(batches)
        assert stream.prepared == [0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_is_raised_at_its_batch_with_its_cells(workers):
    fault = StoreError("cell 34 is cut", where="store/part-00000/X/data", fix="scmf-store verify store")
    with _ahead(Stream(fault), workers=workers) as batches:
        for _ in range(3):
            next(batches)
        with pytest.raises(StoreError, match="cell 34 is cut") as caught:
            next(batches)
    assert caught.value.where.startswith("store/part-00000/X/data; the step at 30 cells seen")
    assert "30, 31, 32" in caught.value.where
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_of_our_own_keeps_its_kind_and_says_where(workers):
    batches = _ahead(Stream(ZeroDivisionError("x"), at=0), workers=workers)
    with batches, pytest.raises(ZeroDivisionError) as caught:
        next(batches)
    assert any("has cells 0, 1, 2" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("workers", [0, 3])
def test_after_the_end_no_thread_is_left_and_nothing_comes(workers):
    before = threading.active_count()
    batches = _ahead(Stream(), workers=workers, depth=6)
    next(batches)
    batches.close()
    batches.close()
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(batches)


def test_waiting_is_reported():
    with _ahead(Stream(), workers=1, depth=1) as batches:
        next(batches)
        assert 0.003 < batches.last_wait < 1
        time.sleep(0.05)
        next(batches)
        assert batches.last_wait < 0.003
        assert batches.total_wait >= batches.last_wait
