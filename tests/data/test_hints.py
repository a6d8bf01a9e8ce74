"""Hints to the system: given as long as the disk is read, left out where all is in memory, and taken up again."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from scmf.data import readahead
from scmf.data.readahead import Hints
from scmf.data.store import CellStore

IDS = np.arange(8)


class Disk:
    """Counts hints, and has pages fetched as long as it is cold."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, cold: bool) -> None:
        self.cold, self.fetched, self.asked = cold, 0, 0
        monkeypatch.setattr(readahead, "ask_for_cells", self._ask)
        monkeypatch.setattr(readahead, "pages_fetched", lambda: self.fetched)

    def _ask(self, *_: object) -> None:
        self.asked += 1

    def read(self) -> str:
        """A read of cells."""
        self.fetched += self.cold
        return "cells"


def test_hints_stop_where_a_read_without_one_fetched_nothing(demo_store, monkeypatch):
    disk, hints = Disk(monkeypatch, cold=False), Hints(demo_store)
    assert all(hints.reading(IDS, disk.read) == "cells" for _ in range(100))
    assert disk.asked == 16


def test_hints_go_on_where_the_disk_is_read_and_reads_without_one_become_rare(demo_store, monkeypatch):
    disk, hints = Disk(monkeypatch, cold=True), Hints(demo_store)
    for _ in range(10_000):
        hints.reading(IDS, disk.read)
    assert 10_000 - 20 < disk.asked < 10_000


def test_hints_come_back_when_pages_have_left_memory(demo_store, monkeypatch):
    disk, hints = Disk(monkeypatch, cold=False), Hints(demo_store)
    for _ in range(50):
        hints.reading(IDS, disk.read)
    disk.cold, before = True, disk.asked
    for _ in range(10):
        hints.reading(IDS, disk.read)
    assert disk.asked - before == 9


def test_a_store_read_through_file_handles_is_always_asked_for(demo_store, monkeypatch):
    disk = Disk(monkeypatch, cold=False)
    hints = Hints(CellStore.open(demo_store.path, read="pread"))
    for _ in range(50):
        hints.reading(IDS, disk.read)
    assert disk.asked == 50


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_THREAD"), reason="the system does not count faults by thread")
def test_the_system_is_not_asked_for_what_a_thread_has_read_before(demo_store, monkeypatch):
    asked = []
    monkeypatch.setattr(readahead, "ask_for_cells", lambda *what: asked.append(what))
    hints, ids = Hints(demo_store), np.arange(len(demo_store))
    for _ in range(200):
        hints.reading(ids, lambda: demo_store.fetch(ids))
    assert len(asked) < 100
