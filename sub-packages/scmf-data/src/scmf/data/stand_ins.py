"""Cells that cannot be read. In: the cells of a batch. Out: what is read of them, another cell in the place of each.

Which cell stands in is a function of the seed and the lost cell's id, so that it is the same on every rank, at every
resume and in every epoch. A batch whose cells are whole pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from scmf.core.batch import ReplacedCell
from scmf.core.errors import ScmfError, StoreError
from scmf.core.random import stream
from scmf.data.split import CellSet

T = TypeVar("T")
LongArray = npt.NDArray[np.int64]
Replaced = dict[int, ReplacedCell]
"""By place in the array of ids."""

TRIES = 16
"""Cells that are tried in the place of one; a store in which so many in a row are bad is not worth training on."""
_LOST = (StoreError, OSError)


class StandIns:
    """Reads cells, and others in the place of those that cannot be read.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def read(
        self, cell_ids: LongArray, pool: CellSet, reader: Callable[[LongArray], T]
    ) -> tuple[T, LongArray, Replaced]:
        """Read cells; where that fails, find out which are lost, and read others in their place.

        Args:
            cell_ids: (k,) int64.
            pool: the set that stand-ins are taken from, so that none comes from another split.
            reader: of any number of cells; raises StoreError or OSError for those it cannot read.

        Returns:
            What the reader says of (k,) int64 ids, those ids, and what was replaced.

        Raises:
            StoreError: no cell can be found for a lost one, or the reader fails on all together only.
            OSError: the same, of the system.
        """
        try:
            return reader(cell_ids), cell_ids, {}
        except _LOST:
            ids, replaced = self._find(cell_ids, pool, reader)
            if not replaced:
                raise
        return reader(ids), ids, replaced

    def _find(
        self, cell_ids: LongArray, pool: CellSet, reader: Callable[[LongArray], object]
    ) -> tuple[LongArray, Replaced]:
        ids, replaced = cell_ids.copy(), Replaced()
        for place, cell in enumerate(cell_ids.tolist()):
            error = _fault(reader, cell)
            if error is not None:
                ids[place] = self._instead(cell, pool, reader, error)
                replaced[place] = ReplacedCell(cell, int(ids[place]), _sentence(error))
        return ids, replaced

    def _instead(
        self, cell: int, pool: CellSet, reader: Callable[[LongArray], object], error: StoreError | OSError
    ) -> int:
        places = stream(self._seed, "stand-in", cell).integers(0, len(pool), TRIES)
        for candidate in pool.take(places).tolist():
            if _fault(reader, candidate) is None:
                return int(candidate)
        raise error


def _fault(reader: Callable[[LongArray], object], cell: int) -> StoreError | OSError | None:
    try:
        reader(np.array([cell], np.int64))
    except _LOST as error:
        return error
    return None


def _sentence(error: Exception) -> str:
    return f"{error.what}, {error.where}" if isinstance(error, ScmfError) else str(error)
