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

from scmf.data.part_table import find_values
from scmf.data.store import CellStore

LongArray = npt.NDArray[np.int64]
AddressArray = npt.NDArray[np.uint64]

# Elsewhere there is neither the call nor its numbers, and the system's own ways have to do.
SUPPORTED = sys.platform in {"linux", "darwin"}
RANDOM = getattr(mmap, "MADV_RANDOM", 1)
WILLNEED = getattr(mmap, "MADV_WILLNEED", 3)

_madvise = types.ExternalFunction("madvise", types.intc(types.uintp, types.uintp, types.intc))


def expect_random_access(store: CellStore) -> None:
    """Say that the values of the store are read in no order."""
    for part in store.parts:
        for array in (part.indices, part.data):
            _advise(np.array([array.ctypes.data], np.uint64), np.array([array.nbytes]), RANDOM)


def ask_for_cells(store: CellStore, cell_ids: LongArray) -> None:
    """Start to read the values of these cells, without waiting for them."""
    _, pieces = find_values(store, cell_ids)
    for piece in pieces:
        for addresses, like in zip(piece.addresses, piece.like, strict=True):
            _advise(addresses, piece.lengths * like.itemsize, WILLNEED)


def _advise(addresses: AddressArray, sizes: LongArray, advice: int) -> None:
    if SUPPORTED:
        advise(addresses, sizes, mmap.PAGESIZE, advice)


@numba.njit(nogil=True, cache=True)
def advise(addresses: AddressArray, sizes: LongArray, page: int, advice: int) -> int:
    """Give one advice about many ranges of mapped memory.

    Args:
        addresses: (k,) uint64 first byte of each range.
        sizes: (k,) int64 bytes of each range.
        page: bytes of a page.
        advice: the system's number.

    Returns:
        How many the system refused.
    """
    refused = 0
    for i in range(len(addresses)):
        begin = addresses[i] // np.uint64(page) * np.uint64(page)
        refused += _madvise(begin, addresses[i] + np.uint64(sizes[i]) - begin, advice) != 0
    return refused
