"""Hints to the system. In: a store and the cells about to be read. Out: their pages, on the way from the disk.

Random cells defeat the system's own read-ahead, which fetches what follows and not what is wanted. Told that
access is random, and then which ranges come next, it fetches all cells of a batch at once. A hint about pages
that are in memory already costs half a microsecond, and a hint that is refused costs nothing else.
"""

from __future__ import annotations

import mmap
import sys

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from scmf.data.store import CellStore

LongArray = npt.NDArray[np.int64]

# Elsewhere there is neither the call nor its numbers, and the system's own ways have to do.
SUPPORTED = sys.platform in {"linux", "darwin"}
RANDOM = getattr(mmap, "MADV_RANDOM", 1)
WILLNEED = getattr(mmap, "MADV_WILLNEED", 3)

_madvise = types.ExternalFunction("madvise", types.intc(types.uintp, types.uintp, types.intc))


def expect_random_access(store: CellStore) -> None:
    """Say that the values of the store are read in no order."""
    if not SUPPORTED:
        return
    for part in store.parts:
        whole = (np.zeros(1, np.int64), np.full(1, len(part.data)))
        _advise_part((np.asarray(part.indices), np.asarray(part.data)), whole, RANDOM)


def ask_for_cells(store: CellStore, cell_ids: LongArray) -> None:
    """Start to read the values of these cells, without waiting for them."""
    if not SUPPORTED:
        return
    numbers, rows = store.locate(cell_ids)
    for number in np.unique(numbers):
        part = store.parts[number]
        spans = part.spans(rows[numbers == number])
        _advise_part((np.asarray(part.indices), np.asarray(part.data)), spans, WILLNEED)


def _advise_part(arrays: tuple[npt.NDArray[np.generic], ...], spans: tuple[LongArray, LongArray], advice: int) -> None:
    for array in arrays:
        advise(np.uint64(array.ctypes.data), *spans, (array.itemsize, mmap.PAGESIZE), advice)


@numba.njit(nogil=True, cache=True)
def advise(address: np.uint64, starts: LongArray, lengths: LongArray, sizes: tuple[int, int], advice: int) -> int:
    """Give one advice about many ranges of a mapped array.

    Args:
        address: of the array's first byte.
        starts: (k,) int64 first value of each range.
        lengths: (k,) int64 values of each range.
        sizes: bytes of a value and of a page.
        advice: the system's number.

    Returns:
        How many the system refused.
    """
    refused = 0
    page = np.uint64(sizes[1])
    for i in range(len(starts)):
        begin = address + np.uint64(starts[i] * sizes[0])
        end = begin + np.uint64(lengths[i] * sizes[0])
        begin = begin // page * page
        refused += _madvise(begin, end - begin, advice) != 0
    return refused
