"""A look at whole cells of a matrix. In: a matrix. Out: what its cells and genes hold, and every kind of offender.

The usual look reads windows spread over the cells; the full one reads every value, in bounded memory. A matrix
whose cells do not lie together (CSC, coordinates) is turned first; when that is too much for a look, no cells are
looked at, and the survey says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.data.ingest.blocks import RawBlock, iter_blocks
from scmf.data.ingest.kernels import BAD_INDEX, NOT_INTEGER
from scmf.data.ingest.source import Matrix, reading
from scmf.data.ingest.survey_kernel import FIRST, KINDS, survey_rows

Array = npt.NDArray[Any]

CAPS: Final = (127, 255, 32_767, 65_535)
"""Highest values of the narrow integer types: where counts that did not fit were cut off."""
WINDOWS: Final = 8
WINDOW_CELLS: Final = 128
_TURNED_VALUES: Final = 1 << 22
"""Values of a CSC matrix that a look turns in memory."""
_TURNED_BUDGET: Final = 1 << 30
_WINDOW_BUDGET: Final = 32 << 20
_KEPT_ROWS: Final = 256
"""Cells whose values are kept for recognising what was done to them."""


@dataclass(frozen=True, slots=True)
class Row:
    """Stored values of one cell."""

    cell: int
    columns: Array
    """(values,) int64"""
    values: Array
    """(values,) float64"""


@dataclass(slots=True)
class Survey:
    """What was seen of a matrix."""

    n_cells: int
    n_genes: int
    cells: int = 0
    """Cells looked at."""
    values: int = 0
    """Stored values looked at."""
    tally: Array = field(default_factory=lambda: np.zeros(KINDS, np.int64))
    """(KINDS,) offenders of each kind."""
    first: Array = field(default_factory=lambda: np.zeros((KINDS, FIRST, 3)))
    """(KINDS, FIRST, 3) cell, column and value of the first."""
    totals: Array = field(default_factory=lambda: np.array([np.inf, 0.0]))
    """(2,) lowest and highest sum of a cell that is not empty."""
    rows: list[Row] = field(default_factory=list)
    """Some cells, whole."""
    highest: float = 0.0
    at_cap: Array = field(default_factory=lambda: np.zeros((len(CAPS), 2), np.int64))
    """(caps, 2) values that equal each of CAPS, and values at most a tenth below it."""
    divisor: int = 0
    """Greatest common divisor of the integer values; 0 before the first."""
    in_cells: Array = field(init=False)
    """(n_genes,) int64 cells in which a gene is above zero."""
    sums: Array = field(init=False)
    """(n_genes,) float64 sum of a gene's values."""
    _last_cell: Array = field(init=False)

    def __post_init__(self) -> None:
        self.in_cells = np.zeros(self.n_genes, np.int64)
        self.sums = np.zeros(self.n_genes)
        self._last_cell = np.full(self.n_genes, -1, np.int64)

    @property
    def complete(self) -> bool:
        """Whether every cell was looked at."""
        return self.cells == self.n_cells

    @property
    def faulty(self) -> bool:
        """Whether any value is no raw count."""
        return bool(self.tally[: BAD_INDEX + 1].any())

    def offenders(self, kind: int) -> list[tuple[int, int, float]]:
        """Cell, column and value of the first offenders of a kind; the column is -1 for whole cells."""
        n = min(FIRST, int(self.tally[kind]))
        return [(int(cell), int(column), float(value)) for cell, column, value in self.first[kind, :n]]

    def add(self, block: RawBlock) -> None:
        """Take in consecutive cells."""
        columns, values = block.columns.astype(np.int64), block.values.astype(np.float64)
        genes = (self.in_cells, self.sums, self._last_cell)
        survey_rows(block.indptr, (columns, values), block.first_cell, genes, (self.tally, self.first, self.totals))
        self.cells += block.n_cells
        self.values += len(values)
        self._keep_rows(block, columns, values)
        self._measure(values)

    def _keep_rows(self, block: RawBlock, columns: Array, values: Array) -> None:
        # A few of every window, so that the first samples of an atlas do not speak for the others.
        room = min(_KEPT_ROWS - len(self.rows), max(1, _KEPT_ROWS // WINDOWS))
        for row in range(min(block.n_cells, room)):
            a, b = block.indptr[row], block.indptr[row + 1]
            self.rows.append(Row(block.first_cell + row, columns[a:b].copy(), values[a:b].copy()))

    def _measure(self, values: Array) -> None:
        counts = values[np.isfinite(values) & (values > 0)]
        if not counts.size:
            return
        highest = float(counts.max())
        self.highest = max(self.highest, highest)
        for k, cap in enumerate(CAPS):
            near = counts[(counts >= 0.9 * cap) & (counts <= cap)] if highest >= 0.9 * cap else counts[:0]
            self.at_cap[k] += (near == cap).sum(), (near < cap).sum()
        if self.divisor != 1 and not self.tally[NOT_INTEGER] and highest < 2**53:
            self.divisor = int(np.gcd.reduce(np.rint(counts).astype(np.int64), initial=self.divisor))


def survey(
    matrix: Matrix, *, full: bool = False, memory: int, scratch: Path, on_cells: Callable[[int], None] = lambda _: None
) -> Survey:
    """Look at cells of a matrix.

    Args:
        matrix: in any layout.
        full: every value, instead of windows.
        memory: bytes that a full look may take, as for conversion.
        scratch: folder for turning a large CSC matrix; made when it is needed.
        on_cells: takes the number of cells of each block, for progress.

    Raises:
        InputError: D015 or D016, a matrix that cannot be read as rows.
    """
    seen = Survey(matrix.n_cells, matrix.n_genes)
    for block in _all_blocks(matrix, memory, scratch) if full else _window_blocks(matrix, scratch):
        seen.add(block)
        on_cells(block.n_cells)
    return seen


def _all_blocks(matrix: Matrix, memory: int, scratch: Path) -> Iterator[RawBlock]:
    with reading(matrix.path, matrix.element):
        yield from iter_blocks(matrix, budget=memory, scratch=scratch)


def _window_blocks(matrix: Matrix, scratch: Path) -> Iterator[RawBlock]:
    if matrix.layout not in {"csr", "dense"}:
        if matrix.n_stored <= _TURNED_VALUES:
            yield from _all_blocks(matrix, _TURNED_BUDGET, scratch)
        return
    for window in windows(matrix.n_cells):
        with reading(matrix.path, matrix.element):
            yield from iter_blocks(matrix, budget=_WINDOW_BUDGET, scratch=scratch, cells=window)


def windows(n_cells: int) -> list[tuple[int, int]]:
    """First and last cell (exclusive) of each window: all cells of a small matrix, eight stretches of a large one."""
    if n_cells <= WINDOWS * WINDOW_CELLS:
        return [(s, min(s + WINDOW_CELLS, n_cells)) for s in range(0, n_cells, WINDOW_CELLS)]
    starts = np.linspace(0, n_cells - WINDOW_CELLS, WINDOWS).astype(np.int64)
    return [(int(s), int(s) + WINDOW_CELLS) for s in starts]
