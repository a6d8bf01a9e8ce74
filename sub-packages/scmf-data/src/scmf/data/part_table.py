"""Addresses of a store's arrays. In: a store and cell ids. Out: where each cell's values lie in memory.

An atlas has a hundred parts, and a random batch has cells of most of them. One call of a kernel a part would
cost more than the work; with addresses, one call serves them all. Every span is checked against its array
before it is handed out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from scmf.data.store import CellStore

LongArray = npt.NDArray[np.int64]
AddressArray = npt.NDArray[np.uint64]
ValueArray = npt.NDArray[Any]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True, slots=True)
class CellSpans:
    """Values of some cells that have one type of indices and one of counts."""

    here: LongArray | slice
    """Places of these cells among those asked for."""
    like: tuple[ValueArray, ValueArray]
    """Empty indices and data of the same types."""
    addresses: tuple[AddressArray, AddressArray]
    """First byte of each cell's indices and data, (k,) uint64."""
    lengths: LongArray
    """(k,) int64 values of each cell."""


class PartTable:
    """Where each part's arrays begin, how long they are and which types they have."""

    def __init__(self, store: CellStore) -> None:
        self._parts = store.parts  # keeps the memory mapped for as long as its addresses are known
        self._starts = store.part_starts
        self._indptr = _addresses([part.indptr for part in store.parts])
        self._values = (
            _addresses([part.indices for part in store.parts]),
            _addresses([part.data for part in store.parts]),
        )
        self._n_values = np.array([len(part.data) for part in store.parts], np.int64)
        types_of = [(part.indices.dtype, part.data.dtype) for part in store.parts]
        self._kinds = sorted(set(types_of), key=str)
        self._kind = np.array([self._kinds.index(kind) for kind in types_of], np.int64)

    def find(self, store: CellStore, cell_ids: LongArray) -> tuple[LongArray, Iterator[CellSpans]]:
        """Number of values of each cell, (k,) int64, and where they lie, one entry for each pair of types.

        Raises:
            IndexError: an id outside the store.
            StoreError: a damaged indptr points outside the values.
        """
        cell_ids = np.ascontiguousarray(cell_ids, np.int64)
        parts, starts, lengths = (np.empty(len(cell_ids), np.int64) for _ in range(3))
        table = (self._starts, self._indptr, self._n_values)
        if find_cells(table, cell_ids, parts, starts, lengths) < len(cell_ids):
            store.lengths(cell_ids)  # says which cell, and why
        return lengths, self._spans(parts, starts, lengths)

    def _spans(self, parts: LongArray, starts: LongArray, lengths: LongArray) -> Iterator[CellSpans]:
        kinds = self._kind[parts]
        for number, like in enumerate(self._kinds):
            here = slice(None) if len(self._kinds) == 1 else np.flatnonzero(kinds == number)
            first, part = starts[here].astype(np.uint64), parts[here]
            indices, data = (
                addresses[part] + first * np.uint64(dtype.itemsize)
                for addresses, dtype in zip(self._values, like, strict=True)
            )
            empty = (np.empty(0, like[0]), np.empty(0, like[1]))
            yield CellSpans(here, empty, (indices, data), lengths[here])


def find_values(store: CellStore, cell_ids: LongArray) -> tuple[LongArray, Iterator[CellSpans]]:
    """`PartTable.find` with the table of this store, made once."""
    table = _TABLES.get(store)
    if table is None:
        table = _TABLES[store] = PartTable(store)
    return table.find(store, cell_ids)


_TABLES: WeakKeyDictionary[CellStore, PartTable] = WeakKeyDictionary()


def _addresses(arrays: list[ValueArray]) -> AddressArray:
    return np.array([array.ctypes.data for array in arrays], np.uint64)


@intrinsic
def pointer_to(typing: Any, address: Any) -> Any:  # noqa: ARG001  # numba hands the typing context to every intrinsic
    """Compiled code only: the pointer with this address, a uint64."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Instruction:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.uint64), generate


@_jit
def find_cells(
    table: tuple[LongArray, AddressArray, LongArray],
    cell_ids: LongArray,
    parts: LongArray,
    starts: LongArray,
    lengths: LongArray,
) -> int:
    """Look up cells in the indptr of their parts.

    Args:
        table: first cell of each part and the end (n_parts + 1,), address of its indptr, its number of values.
        cell_ids: (k,) int64.
        parts: (k,) int64, written: part of each cell.
        starts: (k,) int64, written: its first value.
        lengths: (k,) int64, written: its number of values.

    Returns:
        How many cells are in order; the first that is not, if any, has this place.
    """
    first_cells, addresses, n_values = table
    for i in range(len(cell_ids)):
        part = np.searchsorted(first_cells, cell_ids[i], side="right") - 1
        if part < 0 or part >= len(addresses):
            return i
        row = np.uint64(cell_ids[i] - first_cells[part])
        indptr = numba.carray(pointer_to(addresses[part] + row * np.uint64(8)), (2,), np.int64)
        if indptr[0] < 0 or indptr[1] < indptr[0] or indptr[1] > n_values[part]:
            return i
        parts[i], starts[i], lengths[i] = part, indptr[0], indptr[1] - indptr[0]
    return len(cell_ids)
