"""Counts of a run's cells, for trainers that want no tokens. In: a store, genes, a course. Out: cells x genes, in CSR.

The cells of a step are those that `scmf.data.stream` has at the same position with the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import xxhash

from scmf.core.errors import StoreError
from scmf.core.text import counted
from scmf.data.course import CellCourse, CourseConfig
from scmf.data.split import CellSet
from scmf.data.step_stream import ALONE, Draw, Replica
from scmf.data.store import CellStore, CountsBatch

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CountsStep:
    """Counts of C cells in G genes, V of them not zero."""

    indptr: LongArray
    """(C + 1,) int64 first value of each cell."""
    columns: LongArray
    """(V,) int64 column of each value, rising inside a cell."""
    counts: FloatArray
    """(V,) float32."""
    totals: FloatArray
    """(C,) float32 counts of each cell in all genes of the store, those left out included."""
    cell_ids: LongArray
    """(C,) int64."""
    n_genes: int
    """G."""

    def dense(self) -> FloatArray:
        """(C, G) float32."""
        table = np.zeros((len(self.cell_ids), self.n_genes), np.float32)
        rows = np.repeat(np.arange(len(self.cell_ids)), np.diff(self.indptr))
        table[rows, self.columns] = self.counts
        return table


class CountsStream(CellCourse[CountsStep]):
    """Counts of one replica's cells, by position."""

    def __init__(
        self,
        store: CellStore,
        config: CourseConfig,
        *,
        seed: int,
        genes: Sequence[str] | None = None,
        replica: Replica = ALONE,
    ) -> None:
        """Divide the cells, and find the columns.

        Args:
            store: the cells.
            config: which of them come when.
            seed: decides split and order.
            genes: ids of the store, in the order of the columns; None for all of the store in its order.
            replica: the share that is prepared.

        Raises:
            ConfigError: the split leaves nothing to train on, or nothing can be drawn.
            StoreError: obs lacks a column, or the store has no such gene.
        """
        super().__init__(store, config, seed=seed, replica=replica)
        self.gene_ids = store.gene_ids if genes is None else tuple(genes)
        """Id of each column."""
        self._column = _columns(store, self.gene_ids)

    @property
    def fingerprint(self) -> dict[str, str]:
        """What has to be the same to go on with the same counts, by name."""
        genes = xxhash.xxh3_64("\n".join(self.gene_ids).encode()).hexdigest()
        return {
            "store": self.store.fingerprint,
            "genes": f"{len(self.gene_ids):,} ({genes})",
            **self.course_fingerprint,
            "seed": str(self.seed),
        }

    def _prepare(self, draw: Draw, pool: CellSet) -> CountsStep:
        share, cell_ids, _ = self._stand_ins.read(draw.cell_ids, pool, self._share)
        mine = cell_ids[share == self.replica.number]
        cells, own_ids, _ = self._stand_ins.read(mine, pool, self._fetch)
        return self._in_columns(cells, own_ids)

    def _fetch(self, cell_ids: LongArray) -> CountsBatch:
        return self._hints.reading(cell_ids, lambda: self.store.fetch(cell_ids))

    def _in_columns(self, cells: CountsBatch, cell_ids: LongArray) -> CountsStep:
        n_values = len(cells.counts)
        indptr, totals = np.zeros(len(cells.indptr), np.int64), np.zeros(len(cell_ids), np.float32)
        columns, counts = np.empty(n_values, np.int64), np.empty(n_values, np.float32)
        kept = keep_columns(
            (cells.indptr, cells.indices, cells.counts), self._column, (indptr, columns, counts, totals)
        )
        return CountsStep(indptr, columns[:kept], counts[:kept], totals, cell_ids, len(self.gene_ids))


@numba.njit(cache=True, nogil=True)
def keep_columns(cells: tuple[Array, Array, Array], column: IntArray, out: tuple[Array, Array, Array, Array]) -> int:
    """Keep the values of the genes that have a column, sorted by it.

    Args:
        cells: indptr (C + 1,), gene numbers (V,) and counts (V,).
        column: (n_genes,) int32 column of each gene, -1 for none.
        out: indptr (C + 1,) int64; columns (V,) int64 and counts (V,) float32, of which the first are written; totals
            (C,) float32 counts of a cell in all genes.

    Returns:
        How many values were kept.
    """
    indptr, genes, counts = cells
    out_indptr, out_columns, out_counts, totals = out
    kept = 0
    for cell in range(len(indptr) - 1):
        first, total, rising = kept, 0.0, True
        for i in range(indptr[cell], indptr[cell + 1]):
            total += counts[i]
            to = column[genes[i]]
            if to >= 0:
                rising = rising and (kept == first or out_columns[kept - 1] < to)
                out_columns[kept] = to
                out_counts[kept] = counts[i]
                kept += 1
        if not rising:
            order = np.argsort(out_columns[first:kept])
            out_columns[first:kept] = out_columns[first:kept][order]
            out_counts[first:kept] = out_counts[first:kept][order]
        out_indptr[cell + 1] = kept
        totals[cell] = total
    return kept


def _columns(store: CellStore, gene_ids: Sequence[str]) -> IntArray:
    """(n_genes,) int32 column of each gene of the store, -1 for those that were not asked for."""
    number = {gene: i for i, gene in enumerate(store.gene_ids)}
    missing = [gene for gene in gene_ids if gene not in number]
    if missing:
        raise StoreError(
            f"the store lacks {counted(len(missing), 'gene')} of {len(gene_ids):,} asked for: {', '.join(missing[:3])}"
            f"; its ids are like {', '.join(store.gene_ids[:3])}",
            where=f"{store.path}, genes",
            fix="name genes by ids of the store: CellStore.open(PATH).gene_ids",
        )
    column = np.full(store.n_genes, -1, np.int32)
    column[[number[gene] for gene in gene_ids]] = np.arange(len(gene_ids), dtype=np.int32)
    return column
