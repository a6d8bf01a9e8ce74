"""How much of a store a vocabulary knows. In: both. Out: shares of the genes and of the counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scmf.data.store import CellStore
from scmf.data.vocabulary import Vocabulary

CELLS_A_BLOCK = 1_024


@dataclass(frozen=True, slots=True)
class Coverage:
    """What has a token, and what is dropped."""

    genes: int
    """Genes of the store."""
    known_genes: int
    """Genes of the store that have a token."""
    cells: int
    """Cells over which counts were summed."""
    counts: float
    """Their counts."""
    known_counts: float
    """Their counts of genes that have a token."""
    cells_without_tokens: int
    """Of those cells, the ones without any known gene, which a run passes over."""

    def __str__(self) -> str:
        share = self.known_counts / self.counts if self.counts else 0.0
        return (
            f"{self.known_genes:,} of {self.genes:,} genes ({self.known_genes / max(1, self.genes):.1%}) and "
            f"{share:.1%} of the counts of {self.cells:,} cells have tokens; "
            f"{self.cells_without_tokens:,} of these cells have none"
        )


def measure_coverage(vocabulary: Vocabulary, store: CellStore, *, cells: int = 20_000) -> Coverage:
    """Count what the vocabulary knows, over at most so many cells, evenly spaced over the store."""
    known = vocabulary.tokens_of(store.gene_ids) >= 0
    n = min(cells, len(store))
    chosen = np.arange(n, dtype=np.int64) * len(store) // max(1, n)
    counts = known_counts = 0.0
    without = 0
    for start in range(0, n, CELLS_A_BLOCK):
        batch = store.fetch(chosen[start : start + CELLS_A_BLOCK])
        here = known[batch.indices]
        counts += float(batch.counts.sum(dtype=np.float64))
        known_counts += float(batch.counts[here].sum(dtype=np.float64))
        upto = np.concatenate([np.zeros(1, np.int64), np.cumsum(here)])
        without += int((upto[batch.indptr[1:]] == upto[batch.indptr[:-1]]).sum())
    return Coverage(len(known), int(known.sum()), n, counts, known_counts, without)
