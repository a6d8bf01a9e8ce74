"""Compiled gather. In: the memory-mapped arrays of a part and rows. Out: those rows laid end to end."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@numba.njit(cache=True, nogil=True)
def gather_rows(
    starts: Array, lengths: Array, targets: Array, source: tuple[Array, Array], out: tuple[Array, Array]
) -> int:
    """Copy rows of one part to their places in a batch.

    Args:
        starts: (k,) int64 first value of each row; the caller has checked the bounds.
        lengths: (k,) int64 values of each row.
        targets: (k,) int64 first position of each row in the output.
        source: (values,) indices and counts of the part.
        out: (batch values,) indices and counts of the batch.

    Returns:
        The highest gene index met, -1 without values: the caller refuses one that is out of range.
    """
    indices, counts = source
    out_indices, out_counts = out
    highest = np.int64(-1)
    for k in range(starts.shape[0]):
        start, target = starts[k], targets[k]
        for j in range(lengths[k]):
            gene = np.int64(indices[start + j])
            highest = max(highest, gene)
            out_indices[target + j] = gene
            out_counts[target + j] = counts[start + j]
    return int(highest)
