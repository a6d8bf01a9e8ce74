"""Addresses of the arrays of parts. In: the parts of a store and cell ids. Out: where each cell's values lie in memory.

An atlas has a hundred parts, and a random batch has cells of most of them. One call of a kernel a part would
cost more than the work; with addresses, one call serves them all. Every span is checked against its array
before it is handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from scmf.data.part import Part, locate_cells

LongArray = npt.NDArray[np.int64]
AddressArray = npt.NDArray[np.uint64]
ValueArray = npt.NDArray[Any]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True, slots=True)
class CellSpans:
    """Values of some cells that have one type of indices, one of counts, one list of genes, and one kind of order."""

    here: LongArray | slice
    """Places of these cells among those asked for."""
    like: tuple[ValueArray, ValueArray]
    """Empty indices and data of the same types."""
    addresses: tuple[AddressArray, AddressArray]
    """First byte of each cell's indices and data, (k,) uint64."""
    lengths: LongArray
    """(k,) int64 values of each cell."""
    parts: LongArray
    """(k,) int64 part of each cell."""
    genes: int
    """Which of the store's `gene_maps` numbers their genes."""
    ranked: bool
    """Genes stand in the rank order of the part's vocabulary."""
    keep: tuple[ValueArray, ...] = ()
    """Memory that the addresses point into, where it is not the parts' own."""


class Kind(NamedTuple):
    """What parts have in common whose cells one call of a kernel serves."""

    indices: np.dtype[Any]
    counts: np.dtype[Any]
    genes: int
    ranked: bool

    @property
    def like(self) -> tuple[ValueArray, ValueArray]:
        """Empty indices and data of these types."""
        return np.empty(0, self.indices), np.empty(0, self.counts)


@dataclass(frozen=True, slots=True)
class Found:
    """Where cells lie in their parts, each checked against its array."""

    parts: LongArray
    """(k,) int64."""
    starts: LongArray
    """(k,) int64 first value of each."""
    lengths: LongArray
    """(k,) int64 values of each."""


class PartTable:
    """Where each part's arrays begin, how long they are and which types they have."""

    def __init__(self, parts: Sequence[Part], part_genes: LongArray) -> None:
        """Describe the parts; nothing is mapped.

        Args:
            parts: of the store, in order.
            part_genes: (n_parts,) int64 which list of genes each uses.
        """
        self._parts = tuple(parts)  # keeps the memory mapped for as long as its addresses are known
        self._starts: LongArray = np.cumsum([0, *(part.n_cells for part in parts)], dtype=np.int64)
        self._indptr = np.zeros(len(parts), np.uint64)
        self._values = (np.zeros(len(parts), np.uint64), np.zeros(len(parts), np.uint64))
        self._known = np.zeros(len(parts), np.bool_)
        self._n_values = np.array([part.n_values for part in parts], np.int64)
        kinds = [
            Kind(
                np.dtype(part.record.indices_dtype),
                np.dtype(part.record.counts_dtype),
                int(genes),
                part.record.rank_order is not None,
            )
            for part, genes in zip(parts, part_genes, strict=True)
        ]
        self.kinds = sorted(set(kinds), key=str)
        self._kind = np.array([self.kinds.index(kind) for kind in kinds], np.int64)

    def find(self, cell_ids: LongArray, *, ranks_only: bool = False) -> tuple[LongArray, Iterator[CellSpans]]:
        """Number of values of each cell, (k,) int64, and where they lie, one entry for each kind of part.

        Args:
            cell_ids: (k,) int64.
            ranks_only: counts of parts in rank order are not needed, and may not be there.

        Raises:
            IndexError: an id outside the store.
            StoreError: a damaged indptr points outside the values.
        """
        found = self.look_up(cell_ids)
        del ranks_only  # a memory map costs nothing before it is read
        return found.lengths, self._spans(found)

    def look_up(self, cell_ids: LongArray) -> Found:
        """Part, first value and number of values of each cell; raises as `find`."""
        cell_ids = np.ascontiguousarray(cell_ids, np.int64)
        self._map(cell_ids)
        parts, starts, lengths = (np.empty(len(cell_ids), np.int64) for _ in range(3))
        table = (self._starts, self._indptr, self._n_values)
        if find_cells(table, cell_ids, parts, starts, lengths) < len(cell_ids):
            self._say_what_is_wrong(cell_ids)
        return Found(parts, starts, lengths)

    def advise(self, cell_ids: LongArray, give: Callable[[AddressArray, LongArray], None]) -> None:
        """Give an advice about the memory of these cells: its addresses and bytes, each (k,)."""
        for piece in self.find(cell_ids)[1]:
            wanted = 1 if piece.ranked else 2  # whose order is known already needs no counts
            for addresses, like in zip(piece.addresses[:wanted], piece.like, strict=False):
                give(addresses, piece.lengths * like.itemsize)

    def _map(self, cell_ids: LongArray) -> None:
        """Learn the addresses of parts needed for the first time. Any thread may: all write the same."""
        if self._known.all() or not len(cell_ids):
            return
        numbers = np.unique(self.locate(cell_ids)[0])
        for number in numbers[~self._known[numbers]].tolist():
            part = self._parts[number]
            self._indptr[number] = part.indptr.ctypes.data
            self._values[0][number] = part.indices.ctypes.data
            self._values[1][number] = part.data.ctypes.data
            self._known[number] = True

    def _spans(self, found: Found) -> Iterator[CellSpans]:
        for number, here in self.by_kind(found.parts):
            kind = self.kinds[number]
            like = kind.like
            first, part = found.starts[here].astype(np.uint64), found.parts[here]
            indices, data = (
                addresses[part] + first * np.uint64(empty.itemsize)
                for addresses, empty in zip(self._values, like, strict=True)
            )
            yield CellSpans(here, like, (indices, data), found.lengths[here], part, kind.genes, kind.ranked)

    def by_kind(self, parts: LongArray) -> Iterator[tuple[int, LongArray | slice]]:
        """Each kind of part, with the places of the cells that are of it."""
        if len(self.kinds) == 1:
            yield 0, slice(None)
            return
        kinds = self._kind[parts]
        for number in range(len(self.kinds)):
            yield number, np.flatnonzero(kinds == number)

    def locate(self, cell_ids: LongArray) -> tuple[LongArray, LongArray]:
        """(k,) int64 part number and row inside the part of each cell; IndexError outside the store."""
        return locate_cells(self._starts, cell_ids)

    def _say_what_is_wrong(self, cell_ids: LongArray) -> None:
        """Raise the error about the first cell that is not in order."""
        numbers, rows = self.locate(cell_ids)
        for number in np.unique(numbers):
            self._parts[number].spans(rows[numbers == number])


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
