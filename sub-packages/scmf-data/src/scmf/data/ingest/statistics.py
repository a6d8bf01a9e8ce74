"""What a part's cells look like in numbers. In: cells as they are written. Out: histograms that add up over parts.

Exact, but for the medians: a gene's scaled counts go into bins whose middle is within 0.8% of any value in them
(see scmf.data.medians). Sums of whole numbers, so the order of the parts does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from scmf.data.cell_hash import KeyArray
from scmf.data.order import mix

Array = npt.NDArray[Any]
LongArray = npt.NDArray[np.int64]
Pairs = tuple[tuple[int, int], ...]

STEPS_AN_OCTAVE: Final = 8
"""Bins of the histogram of total counts for each doubling."""


class CellHistograms:
    """Expressed genes and total counts of cells, as histograms."""

    def __init__(self, n_genes: int) -> None:
        self.lengths: LongArray = np.zeros(n_genes + 1, np.int64)
        self.library: LongArray = np.zeros(64 * STEPS_AN_OCTAVE + 1, np.int64)

    def add(self, lengths: LongArray, totals: LongArray) -> None:
        """Count cells.

        Args:
            lengths: (cells,) expressed genes of each cell.
            totals: (cells,) sum of their counts.
        """
        self.lengths += np.bincount(lengths, minlength=len(self.lengths))
        self.library += np.bincount(library_bins(totals), minlength=len(self.library))


def library_bins(totals: LongArray) -> LongArray:
    """(n,) int64 bin of each total: 0 for 0, k from 2**((k-1)/8) to 2**(k/8)."""
    bins: LongArray = 1 + np.floor(STEPS_AN_OCTAVE * np.log2(np.maximum(totals, 1))).astype(np.int64)
    return np.where(totals > 0, bins, 0)


def pairs(histogram: LongArray) -> Pairs:
    """(value, cells) of the entries that are not zero."""
    return tuple((int(k), int(histogram[k])) for k in np.flatnonzero(histogram))


def add_pairs(histograms: Iterable[Pairs | None]) -> Pairs | None:
    """Sum of histograms; None as soon as one is not known."""
    total: dict[int, int] = {}
    for histogram in histograms:
        if histogram is None:
            return None
        for value, cells in histogram:
            total[value] = total.get(value, 0) + cells
    return tuple(sorted(total.items()))


def save_gene_histogram(path: Path, histogram: Array) -> None:
    """Write the bins that are not zero: (places, cells), uint32 each."""
    flat = histogram.ravel()
    places = np.flatnonzero(flat)
    with path.open("wb") as file:
        np.save(file, np.stack([places.astype(np.uint32), flat[places]]), allow_pickle=False)


def add_gene_histogram(path: Path, total: Array) -> None:
    """Add a histogram written by `save_gene_histogram`."""
    places, cells = np.load(path, allow_pickle=False)
    total.reshape(-1)[places] += cells


@numba.njit(cache=True, nogil=True)
def sum_rows(lengths: LongArray, values: tuple[Array, Array], keys: KeyArray, out: tuple[LongArray, KeyArray]) -> None:
    """Sum each row's counts, and hash them.

    The hash is the sum of count x key over the genes, scrambled: a third of what `hash_cells` costs. It is weaker
    (counts that differ by multiples of 2**k share k bits), which is enough to find candidates that are compared
    value by value afterwards.

    Args:
        lengths: (rows,) values of each row; rows lie end to end.
        values: (values,) gene numbers below len(keys), and counts.
        keys: (n_genes,) uint64 from `gene_keys`.
        out: (rows,) int64 sums and (rows,) uint64 hashes, written; the hash is 0 for a row without counts only.
    """
    start = 0
    for row in range(len(lengths)):
        total, word = np.int64(0), np.uint64(0)
        for k in range(start, start + lengths[row]):
            count = np.int64(values[1][k])
            total += count
            word += keys[values[0][k]] * np.uint64(count)
        out[0][row] = total
        out[1][row] = max(mix(word), np.uint64(1)) if total else np.uint64(0)
        start += lengths[row]
