"""Compiled gather. In: addresses of cells' values. Out: those cells laid end to end, genes by the store's numbers."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from scmf.data.part_table import pointer_to

Array = npt.NDArray[Any]


@numba.njit(cache=True, nogil=True)
def gather_cells(
    like: tuple[Array, Array],
    spans: tuple[Array, Array, Array],
    targets: Array,
    genes: tuple[Array, Array],
    out: tuple[Array, Array],
) -> int:
    """Copy cells to their places in a batch.

    Args:
        like: empty arrays of the types of the indices and of the counts.
        spans: address of each cell's indices and of its counts, (k,) uint64, and its number of values, (k,) int64.
        targets: (k,) int64 first position of each cell in the output.
        genes: number of each of a part's genes in the store, int32, empty where they are the same; and the number
            of genes of each cell's part, (k,) int64.
        out: (batch values,) indices and counts of the batch.

    Returns:
        -1, or the number of the first cell that names a gene outside its part; nothing is written from there.
    """
    at_indices, at_counts, lengths = spans
    renumber, limits = genes
    out_indices, out_counts = out
    for k in range(len(lengths)):
        n, target = lengths[k], targets[k]
        indices = numba.carray(pointer_to(at_indices[k]), (n,), like[0].dtype)
        counts = numba.carray(pointer_to(at_counts[k]), (n,), like[1].dtype)
        place = out_indices[target : target + n]
        highest = np.int64(-1)
        for j in range(n):  # two plain loops compile to vector code, one that does both does not
            gene = np.int64(indices[j])
            place[j] = gene
            highest = max(highest, gene)
        if highest >= limits[k]:
            return k
        out_counts[target : target + n] = counts
        if len(renumber) > 0:
            for j in range(n):
                place[j] = renumber[place[j]]
            order = np.argsort(place, kind="mergesort")
            place[:] = place[order]
            out_counts[target : target + n] = counts[order]
    return -1
