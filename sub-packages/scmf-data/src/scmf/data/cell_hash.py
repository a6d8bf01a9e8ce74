"""Identity of a cell's counts. In: CSR cells and their gene ids. Out: a 64-bit hash of each cell.

Two cells have the same hash when they have the same counts in the same genes: in any order, under any numbering
of the genes, in any type. Genes count by their id, so the same cell in two files or two stores is found.
Two different cells have the same hash with a probability of 2**-64; among n cells, some pair has with n**2 / 2**65
(3e-4 at 100 million). It is no defence against somebody who makes collisions on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import xxhash

from scmf.data.order import mix

Array = npt.NDArray[Any]
LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


def gene_keys(gene_ids: Iterable[str]) -> KeyArray:
    """(n_genes,) uint64 xxh3-64 of each gene id (UTF-8): what `hash_cells` knows a gene by."""
    return np.array([xxhash.xxh3_64_intdigest(gene.encode()) for gene in gene_ids], dtype=np.uint64)


def hash_cells(indptr: LongArray, indices: Array, counts: Array, gene_keys: KeyArray) -> KeyArray:
    """Hash cells laid end to end (CSR).

    The hash is the scrambled sum of one scrambled word a value, so the order of the values does not matter.
    Zeros that are stored change nothing. Counts are whole numbers below 2**63; a fraction is cut off.

    Args:
        indptr: (n + 1,) int64 first value of each cell, not falling.
        indices: (values,) integer gene numbers, in any order inside a cell.
        counts: (values,) counts in any number type.
        gene_keys: (n_genes,) uint64 from `gene_keys`, by gene number.

    Returns:
        (n,) uint64. A cell without counts has the hash 0.

    Raises:
        IndexError: indptr points outside the values, or a value names a gene that has no key.
    """
    indptr = np.ascontiguousarray(indptr, np.int64)
    hashes = np.empty(len(indptr) - 1, np.uint64)
    fault = hash_rows(indptr, indices, counts, gene_keys, hashes)
    if fault >= 0:
        raise IndexError(
            f"cell {fault} lies outside the {len(indices):,} values, or names a gene outside 0..{len(gene_keys) - 1}"
        )
    return hashes


@_jit
def hash_rows(indptr: LongArray, indices: Array, counts: Array, keys: KeyArray, out: KeyArray) -> int:
    """Write the hash of every row; `hash_cells` says what the arrays are.

    Args:
        indptr: (n + 1,) int64.
        indices: (values,) integers.
        counts: (values,) numbers.
        keys: (n_genes,) uint64.
        out: (n,) uint64, written.

    Returns:
        -1, or the first row that points outside the values or the genes.
    """
    n_values, n_genes = min(len(indices), len(counts)), len(keys)
    for row in range(len(indptr) - 1):
        if indptr[row] < 0 or indptr[row + 1] < indptr[row] or indptr[row + 1] > n_values:
            return row
        total = np.uint64(0)
        for k in range(indptr[row], indptr[row + 1]):
            gene = np.int64(indices[k])
            if gene < 0 or gene >= n_genes:
                return row
            count = np.uint64(counts[k])
            if count:
                # Keys are scattered already: adding a multiple of an odd constant moves each count elsewhere.
                total += mix(keys[gene] + count * _GOLDEN)
        out[row] = mix(total)
    return -1
