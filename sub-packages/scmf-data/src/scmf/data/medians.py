"""A vocabulary from a store of one's own. In: a store. Out: its genes as tokens, with their medians.

One pass, in memory that depends on the genes and not on the cells: every gene keeps a histogram whose bins are
the exponent and the six highest bits of the fraction of a float32. The middle of a bin is within 1/128 of any
value in it, so a median is within 0.8% of the exact one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from scmf.core.errors import VocabularyError
from scmf.data.rank_kernel import TARGET_SUM, highest_column
from scmf.data.store import CellStore
from scmf.data.vocabulary import BARE_SPECIALS, FRAMED_SPECIALS, Vocabulary

LongArray = npt.NDArray[np.int64]
Histogram = npt.NDArray[np.uint32]

FRACTION_BITS = 6
# Scaled counts lie between 2**-10 (one molecule of ten million) and 2**14 (all of the 10,000); what is lower
# is counted in the lowest bin.
LOWEST, OCTAVES = -10, 24
BINS = OCTAVES << FRACTION_BITS

CELLS_A_BLOCK = 4_096

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


def write_vocabulary(
    store: str | Path,
    out: str | Path,
    *,
    min_cells: int = 1,
    framed: bool = False,
    on_cells: Callable[[int], None] = lambda _: None,
) -> Vocabulary:
    """Compute a vocabulary from a store and write it as a file that `data.tokenizer.vocabulary` can name.

    Args:
        store: folder of the store.
        out: parquet file to make; its stem is the vocabulary's name.
        min_cells: a gene seen in fewer cells has no token.
        framed: sequences begin with <cls> and end with <eos>, as in Geneformer V2.
        on_cells: told how many more cells have been counted.

    Raises:
        StoreError: no intact store there.
        VocabularyError: no gene is in enough cells.
    """
    vocabulary = compute_vocabulary(
        CellStore.open(store), name=Path(out).stem, min_cells=min_cells, framed=framed, on_cells=on_cells
    )
    vocabulary.save(out)
    return vocabulary


def compute_vocabulary(
    store: CellStore,
    *,
    name: str,
    min_cells: int = 1,
    framed: bool = False,
    on_cells: Callable[[int], None] = lambda _: None,
) -> Vocabulary:
    """Give a token to every gene of the store that is in enough cells, in the order of the gene ids.

    A gene's median is that of its non-zero counts, each scaled to 10,000 counts a cell, as Geneformer defines it.
    """
    medians, cells = _known_medians(store) or _count(store, on_cells)
    genes = [j for j in np.argsort(store.gene_ids) if cells[j] >= max(1, min_cells)]
    if not genes:
        raise VocabularyError(
            f"none of {store.n_genes:,} genes is in {min_cells:,} or more of {len(store):,} cells",
            where=str(store.path),
            fix="ask for fewer cells a gene, or use a shipped vocabulary",
        )
    return Vocabulary(
        name=name,
        version=store.fingerprint,
        specials=FRAMED_SPECIALS if framed else BARE_SPECIALS,
        gene_ids=tuple(store.gene_ids[j] for j in genes),
        medians=medians[genes],
        framed=framed,
        source=f"medians (within 0.8%) over {len(store):,} cells of the store {store.fingerprint}",
    )


def _known_medians(store: CellStore) -> tuple[npt.NDArray[np.float64], LongArray] | None:
    """Medians and cells of the genes, where conversion computed them in the same bins."""
    manifest = store.manifest
    if manifest.gene_medians is None or manifest.gene_cells is None:
        return None
    return np.array(manifest.gene_medians, np.float64), np.array(manifest.gene_cells, np.int64)


def _count(store: CellStore, on_cells: Callable[[int], None]) -> tuple[npt.NDArray[np.float64], LongArray]:
    """Medians and cells of the genes, in one pass over all cells."""
    histogram = np.zeros((store.n_genes, BINS), np.uint32)
    for start in range(0, len(store), CELLS_A_BLOCK):
        # By fetch: parts of a joined store number their genes each in its own way.
        batch = store.fetch(np.arange(start, min(start + CELLS_A_BLOCK, len(store))))
        spans = (batch.indptr[:-1], np.diff(batch.indptr))
        count_values((batch.indices, batch.counts), spans, histogram)
        on_cells(len(batch.indptr) - 1)
    return medians_of(histogram), histogram.sum(axis=1, dtype=np.int64)


def medians_of(histogram: Histogram) -> npt.NDArray[np.float64]:
    """Mean of the two middle values of each gene, each known to the middle of its bin.

    Args:
        histogram: (n_genes, BINS) cells by scaled count, from `count_values`.

    Returns:
        (n_genes,) float64; 0 for a gene without any.
    """
    medians = np.zeros(len(histogram))
    for i, bins in enumerate(histogram):
        below = np.cumsum(bins, dtype=np.int64)
        if below[-1]:
            middles = np.searchsorted(below, [(below[-1] - 1) // 2, below[-1] // 2], side="right")
            medians[i] = _middle_of(middles).mean()
    return medians


def _middle_of(bins: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Value in the middle of each bin."""
    octave, step = np.divmod(bins, 1 << FRACTION_BITS)
    middles: npt.NDArray[np.float64] = np.ldexp(1 + (step + 0.5) / (1 << FRACTION_BITS), octave + LOWEST)
    return middles


@_jit
def count_values(
    values: tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]],
    spans: tuple[LongArray, LongArray],
    histogram: Histogram,
) -> int:
    """Add every value, scaled to its cell, to the histogram of its gene.

    Args:
        values: indices and data of a part, (values,) each.
        spans: first value and number of values of each cell, (k,) int64, inside the part.
        histogram: (n_genes, BINS) uint32, added to.

    Returns:
        -1, or the first column that is outside the histogram; counting stops there.
    """
    indices, data = values
    begins, stored = spans
    lowest = np.int64(127 + LOWEST) << FRACTION_BITS  # 127: bias of a float32's exponent
    for i in range(len(begins)):
        cell_indices = indices[begins[i] : begins[i] + stored[i]]
        cell_data = data[begins[i] : begins[i] + stored[i]]
        highest: int = highest_column(cell_indices)
        if highest >= len(histogram):
            return highest
        total = 0
        for j in range(len(cell_data)):
            total += cell_data[j]
        for j in range(len(cell_data)):
            if cell_data[j] > 0:
                bits = np.float32(cell_data[j] * (TARGET_SUM / total)).view(np.uint32)
                place = np.int64(bits >> np.uint32(23 - FRACTION_BITS)) - lowest
                if place < 0:
                    place = np.int64(0)
                histogram[cell_indices[j], place] += 1
    return -1
