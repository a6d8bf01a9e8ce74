"""Hints to the system. In: a store and the cells about to be read. Out: their pages, on the way from the disk.

Random cells defeat the system's own read-ahead, which fetches what follows and not what is wanted. Told that
access is random, and then which ranges come next, it fetches all cells of a batch at once. A hint about pages
that are in memory already costs two microseconds, which for all cells is a sixth of what feeding them takes:
`Hints` gives them only as long as the disk is what is read.
"""

from __future__ import annotations

import mmap
import resource
import sys
from collections.abc import Callable
from typing import Final, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from scmf.data.store import CellStore

LongArray = npt.NDArray[np.int64]
AddressArray = npt.NDArray[np.uint64]

# Elsewhere there is neither the call nor its numbers, and the system's own ways have to do.
SUPPORTED = sys.platform in {"linux", "darwin"}
WILLNEED = getattr(mmap, "MADV_WILLNEED", 3)

_FIRST_PAUSE: Final = 16
_LONGEST_PAUSE: Final = 1024
Result = TypeVar("Result")

_madvise = types.ExternalFunction("madvise", types.intc(types.uintp, types.uintp, types.intc))


def expect_random_access(store: CellStore) -> None:
    """Say that the values of the store are read in no order. Nothing to say where they are not mapped."""
    if store.reading.mode == "mmap":
        for part in store.parts:
            part.expect_random_access()


def ask_for_cells(store: CellStore, cell_ids: LongArray) -> None:
    """Start to read the values of these cells, without waiting for them."""
    store.table.advise(cell_ids, lambda addresses, sizes: _advise(addresses, sizes, WILLNEED))


class Hints:
    """Asks for the cells of each read, as long as asking helps.

    Now and then a read goes without: where the system had to fetch none of its pages from the disk, the hints stop
    until a read meets one that it has to. On a cold store such a trial is slow, so they become rare. Any thread may
    read; what is read does not depend on it.
    """

    def __init__(self, store: CellStore) -> None:
        # Pages that come through a file handle, or from a system that does not count them by thread, are not seen.
        self._counted = store.reading.mode == "mmap" and hasattr(resource, "RUSAGE_THREAD")
        self._store = store
        self._pause = self._left = _FIRST_PAUSE

    def reading(self, cell_ids: LongArray, read: Callable[[], Result]) -> Result:
        """The result of a read of these cells, announced before it where that may help.

        Args:
            cell_ids: (k,) int64.
            read: reads them, in this thread.
        """
        if self._left > 0 or not self._counted:
            ask_for_cells(self._store, cell_ids)
            self._left -= 1
            return read()
        before = pages_fetched()
        result = read()
        if pages_fetched() > before:
            self._left = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._pause = _FIRST_PAUSE
        return result


def pages_fetched() -> int:
    """Pages of mapped memory that this thread has had to wait for so far (major faults)."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt


def _advise(addresses: AddressArray, sizes: LongArray, advice: int) -> None:
    if SUPPORTED:
        advise(addresses, sizes, mmap.PAGESIZE, advice)


@numba.njit(nogil=True, cache=True)
def advise(addresses: AddressArray, sizes: LongArray, page: int, advice: int) -> int:
    """Give one advice about many ranges of mapped memory; ranges that follow each other are one.

    Args:
        addresses: (k,) uint64 first byte of each range.
        sizes: (k,) int64 bytes of each range.
        page: bytes of a page.
        advice: the system's number.

    Returns:
        How many the system refused.
    """
    refused, i = 0, 0
    while i < len(addresses):
        begin = addresses[i] // np.uint64(page) * np.uint64(page)
        end, last = addresses[i] + np.uint64(sizes[i]), i + 1
        while last < len(addresses) and addresses[last] == end:
            end += np.uint64(sizes[last])
            last += 1
        refused += _madvise(begin, end - begin, advice) != 0
        i = last
    return refused
