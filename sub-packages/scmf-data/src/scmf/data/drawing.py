"""Which cell stands at which place of an epoch. In: a set of cells and an order. Out: cells by (epoch, place).

A drawing holds no state that moves: what it answers is a function of seed, epoch and place. `RandomDrawing` is a
keyed permutation of all cells. `BlockDrawing` permutes blocks of neighbours and shuffles inside windows of the
result, so that a disk reads stretches; both give every cell once an epoch. In `scmf.data.weighted` cells come
unequally often, in `scmf.data.gradual` this changes along the run, in `scmf.data.curriculum` easy cells come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from scmf.core.random import derive_seed
from scmf.data.order import derive_keys, permute, permute_each, unpermute
from scmf.data.split import CellSet, RunSet

LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

STRIDE: Final = 128
"""Ids between two counts of a `SortedSet`: looking one place up asks for so many cells' membership."""
_CHUNK: Final = 1 << 20


class Drawing(Protocol):
    """The cells of every epoch, by place."""

    def __len__(self) -> int:
        """Places of an epoch."""
        ...

    def take(self, places: LongArray, *, epoch: int) -> LongArray:
        """Ids of the cells at these places of an epoch, each in 0..len-1. (k,) int64."""
        ...

    def mask_keys(self, places: LongArray, *, epoch: int) -> KeyArray:
        """Key of the corruption at each of these places; another one each time that a cell comes. (k,) uint64."""
        ...


def epoch_keys(places: LongArray, *, seed: int, epoch: int) -> KeyArray:
    """Keys of a drawing in which a cell comes once an epoch: the epoch's. (k,) uint64."""
    return np.full(len(places), derive_seed(seed, "mask", epoch), np.uint64)


def id_chunks(cells: CellSet) -> Iterator[LongArray]:
    """Ids of all cells of a set in the order of its places, a million at a time."""
    for start in range(0, len(cells), _CHUNK):
        yield cells.take(np.arange(start, min(start + _CHUNK, len(cells)), dtype=np.int64))


@dataclass(frozen=True, slots=True)
class RandomDrawing:
    """Each cell of a set once an epoch, every order equally likely."""

    cells: CellSet
    seed: int

    def __len__(self) -> int:
        return len(self.cells)

    def take(self, places: LongArray, *, epoch: int) -> LongArray:
        """Ids of the cells at these places. (k,) int64."""
        return self.cells.take(permute(places, n=len(self), key=derive_seed(self.seed, "order", epoch)))

    def mask_keys(self, places: LongArray, *, epoch: int) -> KeyArray:
        """The epoch's key for each. (k,) uint64."""
        return epoch_keys(places, seed=self.seed, epoch=epoch)


@dataclass(frozen=True, slots=True)
class BlockDrawing:
    """Each cell of a set once an epoch: blocks of neighbours in random order, cells shuffled inside windows."""

    cells: CellSet
    """Places in the order of ids: see `in_id_order`."""
    seed: int
    block: int
    """Neighbours that stay together."""
    window: int
    """Cells that are shuffled together."""

    def __len__(self) -> int:
        return len(self.cells)

    def take(self, places: LongArray, *, epoch: int) -> LongArray:
        """Ids of the cells at these places. (k,) int64."""
        places = np.asarray(places, np.int64)
        number, inside = np.divmod(places, self.window)
        sizes = np.minimum(self.window, len(self) - number * self.window)
        keys = derive_keys(derive_seed(self.seed, "order/window", epoch), number)
        return self.cells.take(
            self._blockwise(number * self.window + permute_each(inside, sizes=sizes, keys=keys), epoch)
        )

    def mask_keys(self, places: LongArray, *, epoch: int) -> KeyArray:
        """The epoch's key for each. (k,) uint64."""
        return epoch_keys(places, seed=self.seed, epoch=epoch)

    def window_of(self, place: int) -> range:
        """Places of the window that holds this one."""
        first = place // self.window * self.window
        return range(first, min(first + self.window, len(self)))

    def _blockwise(self, places: LongArray, epoch: int) -> LongArray:
        """Places in id order of what stands here when whole blocks have changed places. (k,) int64.

        The last block may be short. Where it stands, everything behind it moves up by what it lacks.
        """
        n_blocks = -(-len(self) // self.block)
        key = derive_seed(self.seed, "order/blocks", epoch)
        last = np.array([n_blocks - 1], np.int64)
        missing = n_blocks * self.block - len(self)
        if missing:
            behind = (int(unpermute(last, n=n_blocks, key=key)[0]) + 1) * self.block - missing
            places = np.where(places >= behind, places + missing, places)
        stands, inside = np.divmod(places, self.block)
        return permute(stands, n=n_blocks, key=key) * self.block + inside


class SortedSet:
    """The cells of another set, with their places in the order of ids.

    Holds one count for every 128 ids, 0.06 bytes a cell, and asks the other set for the rest.
    """

    def __init__(self, cells: CellSet, n_cells: int) -> None:
        """Count the cells once: about 0.1 s a million.

        Args:
            cells: knows which cells belong to it.
            n_cells: cells of the store.
        """
        self._cells = cells
        self._n_cells = n_cells
        counts = [np.zeros(1, np.int64)]
        for start in range(0, n_cells, _CHUNK):
            member = cells.contains(np.arange(start, min(start + _CHUNK, n_cells), dtype=np.int64))
            counts.append(np.add.reduceat(member, np.arange(0, len(member), STRIDE), dtype=np.int64))
        self._before: LongArray = np.cumsum(np.concatenate(counts))

    def __len__(self) -> int:
        return len(self._cells)

    def take(self, places: LongArray) -> LongArray:
        """Ids of the cells at these places. (k,) int64."""
        if len(places) and (places.min() < 0 or places.max() >= len(self)):
            raise IndexError(f"places {places.min()}..{places.max()} are not all in 0..{len(self) - 1}")
        stretch = np.searchsorted(self._before, places, side="right") - 1
        found, which = np.unique(stretch, return_inverse=True)
        ids = found[:, None] * STRIDE + np.arange(STRIDE)
        member = self._cells.contains(np.minimum(ids, self._n_cells - 1).ravel()).reshape(ids.shape)
        upto = np.cumsum(member & (ids < self._n_cells), axis=1)
        wanted = places - self._before[stretch]
        inside: LongArray = (upto[which] <= wanted[:, None]).sum(axis=1)
        return stretch * STRIDE + inside

    def contains(self, cell_ids: LongArray) -> npt.NDArray[np.bool_]:
        """Whether each cell belongs to the set. (k,) bool."""
        return self._cells.contains(cell_ids)


def in_id_order(cells: CellSet, *, n_cells: int) -> CellSet:
    """The same cells, their places in the order of ids.

    Args:
        cells: a set of cells of a store.
        n_cells: cells of that store.
    """
    if isinstance(cells, RunSet):
        return cells
    if len(cells) == n_cells:
        return RunSet(np.zeros(1, np.int64), np.array([0, n_cells], np.int64))
    return SortedSet(cells, n_cells)
