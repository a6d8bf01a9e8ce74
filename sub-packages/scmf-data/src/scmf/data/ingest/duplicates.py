"""Cells that are there twice. In: a hash of every cell, on disk. Out: the cells equal to an earlier one, proved.

Equal hashes make candidates, and their counts are then compared value by value, so that a collision of hashes
costs a comparison and never a cell. Memory is bounded: hashes are taken in ranges of their value, as many as fit.
Cells without any count are equal to each other and no duplicates; they are counted elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.data.store import CellStore

Array = npt.NDArray[Any]
LongArray = npt.NDArray[np.int64]

_BYTES_A_CELL: Final = 64
"""A hash, its cell, and what sorting them takes."""
_READ: Final = 1 << 18
_PAIRS: Final = 32
"""Pairs of cells that are compared at a time."""


def find_duplicates(store: CellStore, hashes: Sequence[Path], *, budget: int) -> tuple[LongArray, LongArray]:
    """Find the cells whose counts an earlier cell of the store has as well.

    Args:
        store: where the cells are compared.
        hashes: files of uint64, one a cell of the store, in order.
        budget: bytes of memory to stay within, beside 16 for each duplicate found.

    Returns:
        (k,) int64 duplicates, rising, and (k,) int64 for each the first cell that is equal.
    """
    later: list[LongArray] = [np.empty(0, np.int64)]
    first: list[LongArray] = [np.empty(0, np.int64)]
    n_ranges = max(1, -(-len(store) * _BYTES_A_CELL // budget))
    for k in range(n_ranges):
        cells, firsts = _candidates(hashes, k, n_ranges)
        while len(cells):
            same = _equal(store, firsts, cells)
            later.append(cells[same])
            first.append(firsts[same])
            cells, firsts = _regroup(cells[~same], firsts[~same])
    duplicates, originals = np.concatenate(later), np.concatenate(first)
    order = np.argsort(duplicates)
    return duplicates[order], originals[order]


def _candidates(hashes: Sequence[Path], k: int, n_ranges: int) -> tuple[LongArray, LongArray]:
    """Cells whose hash lies in the k-th range and is an earlier cell's too, and that cell."""
    found, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for start, block in _blocks(hashes):
        # The high 32 bits are evenly spread: their range is known without looking at the others.
        here = np.flatnonzero(((block >> np.uint64(32)) * np.uint64(n_ranges)) >> np.uint64(32) == k)
        here = here[block[here] != 0]  # 0: no count
        found.append(block[here])
        places.append(here + start)
    values, cells = np.concatenate(found), np.concatenate(places)
    order = np.argsort(values, kind="stable")  # cells stay in order among equals
    values, cells = values[order], cells[order]
    new = np.append(True, values[1:] != values[:-1])[: len(values)]
    firsts = cells[np.flatnonzero(new)[np.cumsum(new) - 1]] if len(cells) else cells
    return cells[~new], firsts[~new]


def _blocks(hashes: Sequence[Path]) -> Iterator[tuple[int, Array]]:
    first = 0
    for path in hashes:
        for offset in range(0, path.stat().st_size, _READ * 8):
            block = np.fromfile(path, np.uint64, count=_READ, offset=offset)
            yield first, block
            first += len(block)


def _equal(store: CellStore, a: LongArray, b: LongArray) -> npt.NDArray[np.bool_]:
    """(k,) bool: whether the cells of each pair have the same counts in the same genes."""
    equal: npt.NDArray[np.bool_] = store.lengths(a) == store.lengths(b)
    for start in range(0, len(a), _PAIRS):
        here = np.arange(start, min(start + _PAIRS, len(a)))
        here = here[equal[here]]
        one, other = store.fetch(a[here]), store.fetch(b[here])
        differs = (one.indices != other.indices) | (one.counts != other.counts)
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(differs)])
        equal[here] = ends[one.indptr[1:]] == ends[one.indptr[:-1]]
        let_go(store, np.concatenate([a[here], b[here]]))
    return equal


def let_go(store: CellStore, cells: LongArray) -> None:
    """Unmap what reading these cells has mapped: pages of files count as memory of the process until then."""
    for number in np.unique(store.locate(cells)[0]):
        for name in ("data", "indices"):
            store.parts[number].let_go(name)


def _regroup(cells: LongArray, firsts: LongArray) -> tuple[LongArray, LongArray]:
    """Cells that collided with a group's first without being equal: among themselves they may be."""
    order = np.lexsort((cells, firsts))
    cells, firsts = cells[order], firsts[order]
    new = np.append(True, firsts[1:] != firsts[:-1])[: len(firsts)]
    heads = cells[np.flatnonzero(new)[np.cumsum(new) - 1]] if len(cells) else cells
    return cells[~new], heads[~new]
