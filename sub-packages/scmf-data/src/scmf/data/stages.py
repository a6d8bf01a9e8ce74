"""What changes along a run, in steps of a staircase. In: its length. Out: the positions at which its stages begin.

Whatever moves (the cells of a curriculum, the shares of a sampling) stands still inside a stage, so that the cells of
a stage can be drawn by a keyed permutation, and any position of a run is arithmetic.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

STAGES: Final = 100
"""Stages at most: what moves does so by a hundredth at a time."""


def stage_edges(steps: int, *, batch: int) -> LongArray:
    """Positions at which the stages begin, and the end of the last: (k + 1,) int64 cells seen.

    They depend on steps x batch alone, so that a run resumed at another batch size finds the same stages.

    Args:
        steps: optimizer steps in which all of them pass, > 0.
        batch: cells a step.
    """
    cells = steps * batch
    k = min(cells, STAGES)
    # In integers of Python: a billion steps of a million cells are within int64, their hundredfold is not.
    return np.array([i * cells // k for i in range(k + 1)], np.int64)


def stage_middles(edges: LongArray) -> FloatArray:
    """(k,) float64 share of the way at the middle of each stage, 0 to 1: a straight line is then met in sum."""
    middles: FloatArray = (edges[:-1] + edges[1:]) / 2 / edges[-1]
    return middles
