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


@numba.njit(cache=True, nogil=True, error_model="numpy")
def copy_plain_row(raw: tuple[Array, Array], gene_numbers: Array, out: tuple[Array, Array]) -> tuple[int, int]:
    """Copy one row that is canonical already, in loops that compile to vector code.

    Returns:
        Highest count and sum of the counts; (0, 0) for a row that is not plain: a value that is no integer of
        1 to 65,535, or genes that are dropped, repeated or out of order. Such a row is done again, slowly.
    """
    columns, values = raw
    indices, counts = out
    n_columns = gene_numbers.shape[0]
    plain = True
    for j in range(values.shape[0]):
        value, column = values[j], columns[j]
        plain &= (value > 0) & (value < 65536) & (value == np.floor(value)) & (column >= 0) & (column < n_columns)
    if not plain:
        return 0, 0
    highest, total = np.int64(0), np.int64(0)
    for j in range(values.shape[0]):
        count = np.int32(values[j])
        counts[j] = count
        total += count
        highest = max(highest, np.int64(count))
    last = np.int32(-1)
    for j in range(values.shape[0]):
        gene = gene_numbers[columns[j]]
        plain &= gene > last
        indices[j] = gene
        last = gene
    return (int(highest), int(total)) if plain else (0, 0)


@numba.njit(cache=True, nogil=True)
def copy_row(raw: tuple[Array, Array], gene_numbers: Array, out: tuple[Array, Array], state: Array) -> tuple[int, int]:
    """Copy one row of any kind, checking each value; adds to ROUNDED, KEPT and DROPPED of the state.

    Returns:
        Values written and the highest count; (-1, position) at the first fault, whose kind is in the state.
    """
    columns, values = raw
    indices, counts = out
    write, highest, last, rising = 0, np.int64(0), np.int64(-1), True
    for j in range(values.shape[0]):
        column, value = columns[j], np.float64(values[j])
        inside = column >= 0 and column < gene_numbers.shape[0]
        fault = fault_of(value) if inside else BAD_INDEX
        if fault != 0:
            state[FAULT] = fault
            return -1, j
        count = np.int64(np.rint(value))
        state[ROUNDED] += count != value
        gene = gene_numbers[column]
        state[KEPT if gene >= 0 else DROPPED] += count
        if count == 0 or gene < 0:
            continue
        indices[write] = gene
        counts[write] = count
        rising = rising and gene > last
        last = gene
        highest = max(highest, count)
        write += 1
    if rising:
        return write, int(highest)
    stop, top = merge_row(indices, counts, 0, write)
    return stop, int(max(highest, top))


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
        state: (STATE_SLOTS,) int64, zero before; FAULT and POSITION (in the block) of the first fault, else 0;
            KEPT and DROPPED are sums of counts.
    """
    columns, values = raw
    write = 0
    for row in range(indptr.shape[0] - 1):
        first, stop = indptr[row], indptr[row + 1]
        cell = (columns[first:stop], values[first:stop])
        place = (out[0][write : write + stop - first], out[1][write : write + stop - first])
        highest, total = copy_plain_row(cell, gene_numbers, place)
        written = stop - first
        state[KEPT] += total
        if highest == 0:
            written, highest = copy_row(cell, gene_numbers, place, state)
            if written < 0:
                state[POSITION] = first + highest
                return
        lengths[row] = written
        write += written
        state[MAX_COUNT] = max(state[MAX_COUNT], highest)
    state[WRITTEN] = write


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
def sort_by_range(
    triples: tuple[Array, Array, Array], range_of_row: Array, out: tuple[Array, Array, Array], cuts: Array
) -> None:
    """Stable counting sort of (row, column, value) triples by the range of their row.

    Args:
        triples: (values,) rows, columns and values.
        range_of_row: (all rows,) int32.
        out: the same, range after range.
        cuts: (ranges + 1,) int64, filled: where each range begins.
    """
    rows, columns, values = triples
    cuts[:] = 0
    for j in range(rows.shape[0]):
        cuts[range_of_row[rows[j]] + 1] += 1
    for k in range(1, cuts.shape[0]):
        cuts[k] += cuts[k - 1]
    cursor = cuts[:-1].copy()
    for j in range(rows.shape[0]):
        k = range_of_row[rows[j]]
        place = cursor[k]
        out[0][place] = rows[j]
        out[1][place] = columns[j]
        out[2][place] = values[j]
        cursor[k] = place + 1


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
