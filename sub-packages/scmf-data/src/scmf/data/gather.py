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
    highest = np.int32(-1)
    for k in range(starts.shape[0]):
        start, stop, target = starts[k], starts[k] + lengths[k], targets[k]
        out_counts[target : target + lengths[k]] = counts[start:stop]
        top = np.int32(-1)
        for j in range(lengths[k]):  # two plain loops compile to vector code, one that does both does not
            gene = np.int32(indices[start + j])
            out_indices[target + j] = gene
            top = max(top, gene)
        highest = max(highest, top)
    return int(highest)
