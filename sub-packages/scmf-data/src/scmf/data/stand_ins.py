"""Cells that cannot be read. In: the cells of a batch. Out: their tokens, with another cell in the place of each.

Which cell stands in is a function of the seed and the lost cell's id, so that it is the same on every rank, at every
resume and in every epoch. A batch whose cells are whole pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from scmf.core.batch import ReplacedCell
from scmf.core.errors import ScmfError, StoreError
from scmf.core.random import stream
from scmf.data.rank import RankTokenizer, Tokens
from scmf.data.split import CellSet
from scmf.data.store import CellStore

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
        store: the cells.
        tokenizer: made for the store.
        seed: of the run.
    """

    def __init__(self, store: CellStore, tokenizer: RankTokenizer, *, seed: int) -> None:
        self._store, self._tokenizer, self._seed = store, tokenizer, seed

    def addressed(self, cell_ids: LongArray, pool: CellSet) -> tuple[LongArray, Replaced]:
        """Cells whose place in the store is known, from metadata alone: what every replica has to agree on.

        Args:
            cell_ids: (k,) int64.
            pool: the set that stand-ins are taken from.

        Returns:
            (k,) int64 ids, and what was replaced.

        Raises:
            StoreError: no cell can be found for a lost one.
        """
        return self._replace(cell_ids, pool, lambda ids: self._tokenizer.lengths_upper_bound(self._store, ids))[1:]

    def encode(self, cell_ids: LongArray, pool: CellSet) -> tuple[Tokens, LongArray, Replaced]:
        """Tokens of the cells.

        Args:
            cell_ids: (k,) int64.
            pool: the set that stand-ins are taken from.

        Returns:
            The tokens of (k,) int64 ids, those ids, and what was replaced.

        Raises:
            StoreError: no cell can be found for a lost one.
        """
        return self._replace(cell_ids, pool, lambda ids: self._tokenizer.encode(self._store, ids))

    def _replace(
        self, cell_ids: LongArray, pool: CellSet, read: Callable[[LongArray], T]
    ) -> tuple[T, LongArray, Replaced]:
        try:
            return read(cell_ids), cell_ids, {}
        except _LOST:
            pass
        ids, replaced = cell_ids.copy(), {}
        for place, cell in enumerate(cell_ids.tolist()):
            error = _fault(read, cell)
            if error is not None:
                ids[place] = self._instead(cell, pool, read, error)
                replaced[place] = ReplacedCell(cell, int(ids[place]), _sentence(error))
        return read(ids), ids, replaced

    def _instead(self, cell: int, pool: CellSet, read: Callable[[LongArray], object], error: Exception) -> int:
        for candidate in self._candidates(cell, pool):
            if _fault(read, candidate) is None:
                return candidate
        raise error

    def _candidates(self, cell: int, pool: CellSet) -> Iterator[int]:
        places = stream(self._seed, "stand-in", cell).integers(0, len(pool), TRIES)
        return iter(pool.take(places).tolist())


def _fault(read: Callable[[LongArray], object], cell: int) -> Exception | None:
    try:
        read(np.array([cell], np.int64))
    except _LOST as error:
        return error
    return None


def _sentence(error: Exception) -> str:
    return f"{error.what}, {error.where}" if isinstance(error, ScmfError) else str(error)
