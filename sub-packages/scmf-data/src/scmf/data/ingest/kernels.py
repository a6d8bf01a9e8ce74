"""Compiled passes of ingest. In: raw CSR blocks. Out: canonical rows with proved counts, or the first fault."""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Slots of the state that `canonical_rows` fills.
FAULT: Final = 0
POSITION: Final = 1
MAX_COUNT: Final = 2
ROUNDED: Final = 3
WRITTEN: Final = 4
KEPT: Final = 5
DROPPED: Final = 6
STATE_SLOTS: Final = 7

# Kinds of fault.
NEGATIVE: Final = 1
NOT_FINITE: Final = 2
NOT_INTEGER: Final = 3
TOO_LARGE: Final = 4
BAD_INDEX: Final = 5

NOISE: Final = 1e-4
"""Distance from an integer that is float noise: below any step of log1p data, above what float32 loses."""
RELATIVE_NOISE: Final = 5e-7
"""Four steps of float32, for counts so high that float32 is coarser than NOISE."""
HIGHEST: Final = 4294967295.0


@numba.njit(cache=True, nogil=True)
def fault_of(value: float) -> int:
    """Kind of fault of one value as a raw count; 0 for none. `value` is a float64."""
    if not np.isfinite(value):
        return NOT_FINITE
    if value < -NOISE:
        return NEGATIVE
    if abs(value - np.rint(value)) > NOISE + RELATIVE_NOISE * value:
        return NOT_INTEGER
    if value > HIGHEST:
        return TOO_LARGE
    return 0


@numba.njit(cache=True, nogil=True)
def first_fault(values: Array) -> int:
    """Position of the first value that is no raw count, -1 when all are."""
    for j in range(values.shape[0]):
        if fault_of(np.float64(values[j])) != 0:
            return j
    return -1


@numba.njit(cache=True, nogil=True)
def merge_row(indices: Array, counts: Array, start: int, stop: int) -> tuple[int, int]:
    """Sort one row by gene and add up repeated genes, in place; returns the new stop and the highest count."""
    order = np.argsort(indices[start:stop], kind="mergesort")
    genes = indices[start:stop][order]
    values = counts[start:stop][order].astype(np.int64)
    write, highest, k = start, np.int64(0), 0
    while k < order.shape[0]:
        total = values[k]
        gene = genes[k]
        k += 1
        while k < order.shape[0] and genes[k] == gene:
            total += values[k]
            k += 1
        indices[write] = gene
        counts[write] = total
        highest = max(highest, total)
        write += 1
    return write, int(highest)


@numba.njit(cache=True, nogil=True)
def canonical_rows(
    indptr: Array, raw: tuple[Array, Array], gene_numbers: Array, out: tuple[Array, Array], lengths: Array, state: Array
) -> None:
    """Check every value of a block and write its rows with the store's gene numbers, rising and without zeros.

    Args:
        indptr: (rows + 1,) int64 first value of each row in the block.
        raw: (values,) gene columns and values of the source.
        gene_numbers: (source genes,) int32 number of each column's gene in the store, -1 to drop it.
        out: (values,) indices and counts, filled from the start; a count that does not fit wraps around, and
            state[MAX_COUNT] tells the caller to come again with a wider type.
        lengths: (rows,) int64 values written for each row.
        state: (STATE_SLOTS,) int64; FAULT and POSITION (in the block) of the first fault, else 0; KEPT and
            DROPPED are sums of counts.
    """
    columns, values = raw
    indices, counts = out
    n_columns = gene_numbers.shape[0]
    write, highest, rounded = 0, np.int64(0), 0
    kept, dropped = np.int64(0), np.int64(0)
    for row in range(indptr.shape[0] - 1):
        start, last, rising = write, np.int64(-1), True
        for j in range(indptr[row], indptr[row + 1]):
            column = columns[j]
            value = np.float64(values[j])
            count = np.int64(value) if abs(value) < 4.0e18 else np.int64(-1)
            if np.float64(count) != value or count < 0 or count > 4294967295 or column < 0 or column >= n_columns:
                fault = BAD_INDEX if column < 0 or column >= n_columns else fault_of(value)
                if fault != 0:
                    state[FAULT], state[POSITION] = fault, j
                    return
                count = np.int64(np.rint(value))
                rounded += 1
            gene = gene_numbers[column]
            if gene < 0:
                dropped += count
                continue
            if count == 0:
                continue
            kept += count
            indices[write] = gene
            counts[write] = count
            rising = rising and gene > last
            last = gene
            highest = max(highest, count)
            write += 1
        if not rising:
            write, top = merge_row(indices, counts, start, write)
            highest = max(highest, top)
        lengths[row] = write - start
    state[MAX_COUNT], state[ROUNDED], state[WRITTEN] = highest, rounded, write
    state[KEPT], state[DROPPED] = kept, dropped


@numba.njit(cache=True, nogil=True)
def dense_rows(block: Array, indptr: Array, columns: Array, values: Array) -> None:
    """Non-zero values of a (rows, genes) block as CSR; `indptr` is filled, NaN counts as a value."""
    write = 0
    for row in range(block.shape[0]):
        for column in range(block.shape[1]):
            value = block[row, column]
            if value != 0:
                columns[write] = column
                values[write] = value
                write += 1
        indptr[row + 1] = write


@numba.njit(cache=True, nogil=True)
def count_rows(rows: Array, lengths: Array) -> bool:
    """Add to each row's length the times it is named; False when a row does not exist."""
    n = lengths.shape[0]
    for j in range(rows.shape[0]):
        row = rows[j]
        if row < 0 or row >= n:
            return False
        lengths[row] += 1
    return True


@numba.njit(cache=True, nogil=True)
def place_by_row(
    rows: Array, first_row: int, cursor: Array, raw: tuple[Array, Array], out: tuple[Array, Array]
) -> None:
    """Put (column, value) pairs in column order into their rows' places; `cursor` holds each row's next place."""
    columns, values = raw
    out_columns, out_values = out
    for j in range(rows.shape[0]):
        row = rows[j] - first_row
        place = cursor[row]
        out_columns[place] = columns[j]
        out_values[place] = values[j]
        cursor[row] = place + 1
