"""One pass over raw cells that counts whatever can be wrong with them. In: raw CSR rows. Out: tallies, filled in."""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from scmf.data.ingest.kernels import BAD_INDEX, NOISE, fault_of

Array = npt.NDArray[Any]

# Rows of `tally`: how many values or cells; and of `first`: where the first three are.
# 1 to 5 are the kinds of fault of scmf.data.ingest.kernels.
ZERO: Final = 6
REPEATED: Final = 7
UNSORTED: Final = 8
NOISY: Final = 9
EMPTY: Final = 10
FEW: Final = 11
KINDS: Final = 12

FIRST: Final = 3
"""Offenders that are remembered of each kind."""
LEAST_GENES: Final = 7
"""Genes above zero below which Geneformer's corpus leaves a cell out (Theodoris et al., Nature 2023, methods)."""


@numba.njit(cache=True, nogil=True)
def note(kind: int, cell: int, column: int, value: float, tally: Array, first: Array) -> None:
    """Count one offender of a kind, and remember it when it is among the first."""
    seen = tally[kind]
    if seen < FIRST:
        first[kind, seen, 0] = cell
        first[kind, seen, 1] = column
        first[kind, seen, 2] = value
    tally[kind] = seen + 1


@numba.njit(cache=True, nogil=True)
def kind_of(value: float) -> int:
    """Kind of offender that a value is by itself; 0 for a count above zero."""
    fault: int = fault_of(value)
    if fault != 0:
        return fault
    if value == 0:
        return ZERO
    return NOISY if value != np.rint(value) else 0


@numba.njit(cache=True, nogil=True)
def survey_row(cell: int, raw: tuple[Array, Array], genes: tuple[Array, Array, Array], out: tuple[Array, Array]) -> Any:
    """Count the offenders of one cell; returns its genes above zero and its sum. Arguments as in `survey_rows`."""
    columns, values = raw
    in_cells, sums, last_cell = genes
    tally, first = out
    last, rising, n, total = np.int64(-1), True, np.int64(0), 0.0
    for j in range(columns.shape[0]):
        column, value = columns[j], values[j]
        if column < 0 or column >= in_cells.shape[0]:
            note(BAD_INDEX, cell, column, value, tally, first)
            continue
        kind = kind_of(value)
        if kind != 0:
            note(kind, cell, column, value, tally, first)
        if last_cell[column] == cell:
            note(REPEATED, cell, column, value, tally, first)
        rising = rising and column >= last
        last = column
        if NOISE < value < np.inf:
            if last_cell[column] != cell:
                n += 1
                in_cells[column] += 1
            total += value
            sums[column] += value
        last_cell[column] = cell
    if not rising:
        note(UNSORTED, cell, -1, 0.0, tally, first)
    return n, total


@numba.njit(cache=True, nogil=True)
def survey_rows(
    indptr: Array, raw: tuple[Array, Array], first_cell: int, genes: tuple[Array, Array, Array], out: tuple[Array, ...]
) -> None:
    """Count the offenders of consecutive cells, and what each gene gets.

    Args:
        indptr: (rows + 1,) int64.
        raw: (values,) int64 columns and float64 values.
        first_cell: number of the first row.
        genes: (columns,) int64 cells in which a gene is above zero, (columns,) float64 sum of its counts, and
            (columns,) int64 last cell that named it, below zero before the first cell; all are changed.
        out: (KINDS,) int64 tally; (KINDS, FIRST, 3) float64 cell, column and value of the first of each kind; and
            (2,) float64 lowest and highest sum of a cell that is not empty; all are changed.
    """
    columns, values = raw
    tally, first, totals = out
    for row in range(indptr.shape[0] - 1):
        a, b = indptr[row], indptr[row + 1]
        n, total = survey_row(first_cell + row, (columns[a:b], values[a:b]), genes, (tally, first))
        if n == 0:
            note(EMPTY, first_cell + row, -1, 0.0, tally, first)
            continue
        if n < LEAST_GENES:
            note(FEW, first_cell + row, -1, np.float64(n), tally, first)
        totals[0] = min(totals[0], total)
        totals[1] = max(totals[1], total)
