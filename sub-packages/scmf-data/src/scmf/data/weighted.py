"""Cells that come unequally often. In: groups of cells and a share for each. Out: cells by (epoch, place).

An epoch has as many places as there are training cells. Its places are divided among the groups in proportion to
weight x cells, up to one place a group in an epoch and without a bias over the epochs (`scmf.data.apportion`), and
shuffled over the epoch by the keyed permutation. A group goes through its own cells without repetition, in an order
that is new each time, and goes on in the next epoch where it stopped: after any number of epochs two cells of one
group have been drawn equally often, up to one. What is masked in a cell is new each time as well.
So a draw is a binary search over the groups and two permutations; nothing is remembered.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scmf.core.random import derive_seed
from scmf.data.apportion import Apportionment, EpochPlaces
from scmf.data.order import derive_keys, permute, permute_each
from scmf.data.split import CellSet

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float64]


class GroupDraws(NamedTuple):
    """Draws as their group counts them."""

    groups: LongArray
    """(k,) int64 group of each draw."""
    numbers: LongArray
    """(k,) int64 draws that the group has had before, since the beginning of the run."""


def draws_at(slots: LongArray, here: EpochPlaces) -> GroupDraws:
    """The draws at these slots of a stretch of the run.

    Args:
        slots: (k,) int64 places of the stretch, shuffled.
        here: how the stretch is divided among groups, and what each group had before it.
    """
    group = np.searchsorted(here.ends, slots, side="right")
    return GroupDraws(group, (here.before - here.ends + here.slots)[group] + slots)


class WeightedDrawing:
    """Groups of cells in given proportions; a cell of each group as often as its neighbour."""

    def __init__(
        self, cells: CellSet, groups: IntArray, shares: FloatArray, *, seed: int, before: LongArray | None = None
    ) -> None:
        """Sort the cells by group: 4 bytes a training cell are kept (8 above two billion cells).

        Args:
            cells: the training cells.
            groups: (len(cells),) int32 group of the cell at each place of `cells`.
            shares: (n_groups,) float64 share of the draws that each group is to have; not negative, sum above 0.
            seed: the run's.
            before: (n_groups,) int64 draws of each group before the first epoch; none by default.
        """
        self._cells = cells
        self._seed = seed
        sizes = np.bincount(groups, minlength=len(shares)).astype(np.int64)
        kind = np.int32 if len(groups) < 2**31 else np.int64
        self._members = np.argsort(groups, kind="stable").astype(kind)
        self._first: LongArray = np.cumsum(sizes) - sizes
        self._sizes = sizes
        self._before = np.zeros(len(shares), np.int64) if before is None else before
        offset = derive_seed(seed, "order/places")
        self._places = Apportionment(np.where(sizes > 0, shares, 0.0), len(groups), offset=offset)

    def __len__(self) -> int:
        return len(self._members)

    def take(self, places: LongArray, *, epoch: int) -> LongArray:
        """Ids of the cells at these places of an epoch. (k,) int64."""
        return self.cells_of(self.find(places, epoch=epoch))

    def mask_keys(self, places: LongArray, *, epoch: int) -> KeyArray:
        """Key of the corruption of each draw, a new one each time that a cell comes. (k,) uint64."""
        return self.keys_of(self.find(places, epoch=epoch))

    def find(self, places: LongArray, *, epoch: int) -> GroupDraws:
        """The draws at these places of an epoch, as their groups count them."""
        slots = permute(places, n=len(self), key=derive_seed(self._seed, "order", epoch))
        here = self._places.epoch(epoch)
        return draws_at(slots, EpochPlaces(here.ends, here.before + self._before))

    def cells_of(self, draws: GroupDraws) -> LongArray:
        """Ids of the cells that come at these draws. (k,) int64."""
        group, size = draws.groups, self._sizes[draws.groups]
        passes, place = np.divmod(draws.numbers, size)
        # One key for each pass of each group; two passes share none before 2**62 / n_groups of them.
        keys = derive_keys(derive_seed(self._seed, "order/group"), passes * len(self._sizes) + group)
        inside = permute_each(place, sizes=size, keys=keys)
        places_of_cells: LongArray = self._members[self._first[group] + inside].astype(np.int64)
        return self._cells.take(places_of_cells)

    def keys_of(self, draws: GroupDraws) -> KeyArray:
        """Key of the corruption at these draws: that of the group's pass, which has each cell once. (k,) uint64."""
        return derive_keys(derive_seed(self._seed, "mask/pass"), draws.numbers // self._sizes[draws.groups])
