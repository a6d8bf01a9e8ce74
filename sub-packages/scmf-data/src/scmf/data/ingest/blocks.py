"""Cells of a matrix in bounded memory. In: a CSR, CSC, COO or dense matrix of a source. Out: raw CSR blocks.

A CSC or COO matrix is turned by an external sort: one pass counts the values of each cell, a second sends every value
to the file of its range of cells, and each range then fits in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.data.ingest.findings import refuse
from scmf.data.ingest.kernels import count_rows, dense_rows, place_by_row, sort_by_range
from scmf.data.ingest.source import ArrayNode, Matrix, reading

Array = npt.NDArray[Any]
LongArray = npt.NDArray[np.int64]

_WINDOW: Final = 1 << 16
"""Rows of indptr that are read at a time."""
_MOST_VALUES: Final = 1 << 20
"""Values of a block: larger ones leave the cache and gain nothing."""
_BYTES_A_VALUE: Final = 48
"""Raw and canonical form of one value in the widest types, and the copies between them."""


@dataclass(frozen=True, slots=True)
class RawBlock:
    """Consecutive cells as the source holds them. The arrays may be overwritten by the next block."""

    first_cell: int
    indptr: LongArray
    """(cells + 1,) int64, from 0."""
    columns: Array
    """(values,) int32 or int64 columns of the source, in any order, unchecked."""
    values: Array
    """(values,) float32, float64 or int64."""

    @property
    def n_cells(self) -> int:
        """Cells of the block."""
        return len(self.indptr) - 1

    def cells(self, start: int, stop: int) -> RawBlock:
        """Cells start..stop of the block."""
        a, b = self.indptr[start], self.indptr[stop]
        first = self.first_cell + start
        return RawBlock(first, self.indptr[start : stop + 1] - a, self.columns[a:b], self.values[a:b])


def iter_blocks(
    matrix: Matrix, *, budget: int, scratch: Path, cells: tuple[int, int] | None = None
) -> Iterator[RawBlock]:
    """Cells of a matrix in order, in blocks that keep the process's growth within `budget` bytes.

    Args:
        matrix: what to read.
        budget: bytes.
        scratch: folder for the external sort of a CSC or COO matrix.
        cells: first cell and the one after the last, of a CSR or dense matrix; None for all.
    """
    n_values = max(1 << 16, budget // _BYTES_A_VALUE)
    start, stop = (0, matrix.n_cells) if cells is None else cells
    if matrix.layout == "csr":
        return _csr_blocks(matrix, min(n_values, _MOST_VALUES), start, stop)
    if matrix.layout == "dense":
        return _dense_blocks(matrix, min(n_values, 4 * _MOST_VALUES), start, stop)
    if (start, stop) != (0, matrix.n_cells):
        raise ValueError(f"a {matrix.layout} matrix is read as a whole, or turned first")
    return _sorted_blocks(matrix, n_values, scratch)


def value_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type in which values are read: few, so that few kernels are compiled, and none narrower than the file's."""
    if dtype.kind == "f":
        return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    return np.dtype(np.int64)


def read_values(node: ArrayNode, start: int, stop: int, *, into: Array) -> Array:
    """Elements start..stop of a one-dimensional dataset, converted into the head of a buffer."""
    head = into[: stop - start]
    direct = getattr(node, "read_direct", None)
    if direct is None or node.dtype.kind == "b":  # HDF5 keeps booleans as an enumeration and converts them to nothing
        head[:] = node[start:stop]
    elif stop > start:
        direct(head, np.s_[start:stop])
    return head


def _column_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.int32 if dtype.itemsize < 4 or dtype == np.int32 else np.int64)


def _csr_blocks(matrix: Matrix, n_values: int, first: int, last: int) -> Iterator[RawBlock]:
    indices, data = matrix.minor(), matrix.values
    columns = np.empty(n_values, _column_type(indices.dtype))
    values = np.empty(n_values, value_type(data.dtype))
    for window in range(first, last, _WINDOW):
        indptr = _read_indptr(matrix, window, min(window + _WINDOW, last) + 1)
        row = 0
        while row < len(indptr) - 1:
            stop = max(row + 1, int(np.searchsorted(indptr, indptr[row] + n_values, side="right")) - 1)
            a, b = int(indptr[row]), int(indptr[stop])
            if b - a > len(values):  # one cell longer than a block: repeated genes
                columns, values = np.empty(b - a, columns.dtype), np.empty(b - a, values.dtype)
            with reading(matrix.path, matrix.element):
                head = read_values(indices, a, b, into=columns), read_values(data, a, b, into=values)
            yield RawBlock(window + row, indptr[row : stop + 1] - a, *head)
            row = stop


def _read_indptr(matrix: Matrix, start: int, stop: int) -> LongArray:
    with reading(matrix.path, matrix.element):
        indptr: LongArray = matrix.starts()[start:stop].astype(np.int64)
    if indptr[0] < 0 or indptr[-1] > matrix.values.shape[0] or (np.diff(indptr) < 0).any():
        falls = np.flatnonzero(np.diff(indptr) < 0)
        kind = "gene" if matrix.layout == "csc" else "cell"
        first = f"; it falls at {kind} number {start + int(falls[0]):,}" if falls.size else ""
        what = f"indptr does not rise from 0 to the number of values{first}"
        raise refuse("D015", what, where=f"{matrix.where}/indptr")
    return indptr


def _dense_blocks(matrix: Matrix, n_values: int, first: int, last: int) -> Iterator[RawBlock]:
    node = matrix.values
    dtype = value_type(node.dtype)
    rows = max(1, n_values // matrix.n_genes)
    chunks = getattr(node, "chunks", None)
    if chunks and chunks[0] <= rows:
        rows -= rows % chunks[0]  # whole chunks, or each would be read (and unpacked) twice
    for start in range(first, last, rows):
        with reading(matrix.path, matrix.element):
            block = node[start : min(start + rows, last)]
        block = block.astype(np.uint8) if node.dtype.kind == "b" else _native(block)
        n = int(np.count_nonzero(block))
        indptr, columns, values = np.zeros(len(block) + 1, np.int64), np.empty(n, np.int32), np.empty(n, dtype)
        dense_rows(block, indptr, columns, values)
        yield RawBlock(start, indptr, columns, values)


def _native(block: Array) -> Array:
    dtype = np.dtype(np.float32) if block.dtype == np.float16 else block.dtype.newbyteorder("=")
    return block.astype(dtype, copy=False)


def _sorted_blocks(matrix: Matrix, n_values: int, scratch: Path) -> Iterator[RawBlock]:
    lengths = _cell_lengths(matrix)
    ends = np.cumsum(lengths)
    bounds = [0]
    while bounds[-1] < matrix.n_cells:
        done = int(ends[bounds[-1] - 1]) if bounds[-1] else 0
        bounds.append(max(bounds[-1] + 1, int(np.searchsorted(ends, done + n_values, side="right"))))
    if len(bounds) <= 2:
        yield _place(_triples(matrix), first_cell=0, lengths=lengths, values=matrix.values.dtype)
        return
    _scatter(matrix, np.array(bounds), scratch)
    for k, (a, b) in enumerate(pairwise(bounds)):
        path = scratch / f"cells-{k}"
        triples = _read_triples(path, _triple_type(matrix.values.dtype))
        yield _place(triples, first_cell=a, lengths=lengths[a:b], values=matrix.values.dtype)
        path.unlink(missing_ok=True)


def _cell_lengths(matrix: Matrix) -> LongArray:
    lengths = np.zeros(matrix.n_cells, np.int64)
    node = matrix.minor() if matrix.rows is None else matrix.rows
    buffer = np.empty(_MOST_VALUES, _column_type(node.dtype))
    for start in range(0, node.shape[0], _MOST_VALUES):
        with reading(matrix.path, matrix.element):
            rows = read_values(node, start, min(start + _MOST_VALUES, node.shape[0]), into=buffer)
        if not count_rows(rows, lengths):
            raise refuse("D015", f"an index is outside the {matrix.n_cells:,} cells", where=f"{matrix.where}/indices")
    return lengths


def _triples(matrix: Matrix) -> Iterator[Array]:
    """(row, column, value) records of a CSC or COO matrix in its own order, a block at a time."""
    indptr = None if matrix.indptr is None else _read_indptr(matrix, 0, matrix.n_genes + 1)
    dtype = _triple_type(matrix.values.dtype)
    for start in range(0, matrix.values.shape[0], _MOST_VALUES):
        stop = min(start + _MOST_VALUES, matrix.values.shape[0])
        triples = np.empty(stop - start, dtype)
        with reading(matrix.path, matrix.element):
            triples["value"] = matrix.values[start:stop]
            triples["row"] = (matrix.minor() if matrix.rows is None else matrix.rows)[start:stop]
            triples["column"] = matrix.minor()[start:stop] if indptr is None else _columns(indptr, start, stop)
        yield triples


def _columns(indptr: LongArray, start: int, stop: int) -> Array:
    """(stop - start,) int32 column of each of these values of a CSC matrix."""
    ends = np.clip(indptr, start, stop)
    return np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), ends[1:] - ends[:-1])


def _triple_type(values: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype([("row", np.int32), ("column", np.int32), ("value", value_type(values))])


def _scatter(matrix: Matrix, bounds: Array, scratch: Path) -> None:
    """Append every record to the file of its range of cells; inside a file the column order stays."""
    scratch.mkdir(parents=True, exist_ok=True)
    n_ranges = len(bounds) - 1
    range_of_row = np.repeat(np.arange(n_ranges, dtype=np.int32), bounds[1:] - bounds[:-1])
    ordered, cuts = np.empty(_MOST_VALUES, _triple_type(matrix.values.dtype)), np.empty(n_ranges + 1, np.int64)
    for triples in _triples(matrix):
        sort_by_range(_fields(triples), range_of_row, _fields(ordered), cuts)
        for k in np.flatnonzero(cuts[1:] > cuts[:-1]):
            with (scratch / f"cells-{k}").open("ab", buffering=0) as file:
                file.write(ordered[cuts[k] : cuts[k + 1]].view(np.uint8).data)


def _fields(triples: Array) -> tuple[Array, Array, Array]:
    """Views of the three fields; compiled code reads them in place."""
    return triples["row"], triples["column"], triples["value"]


def _read_triples(path: Path, dtype: np.dtype[Any]) -> Iterator[Array]:
    if not path.exists():  # a range of cells without values
        return
    for offset in range(0, path.stat().st_size, _MOST_VALUES * dtype.itemsize):
        yield np.fromfile(path, dtype, count=_MOST_VALUES, offset=offset)


def _place(chunks: Iterator[Array], *, first_cell: int, lengths: LongArray, values: np.dtype[Any]) -> RawBlock:
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    out = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], value_type(values))
    cursor = indptr[:-1].copy()
    for chunk in chunks:
        rows, *raw = _fields(chunk)
        place_by_row(rows, first_cell, cursor, tuple(raw), out)
    return RawBlock(first_cell, indptr, *out)
