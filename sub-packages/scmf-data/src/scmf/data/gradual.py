"""Cells whose shares change along the run. In: shares of groups by stage. Out: cells by (epoch, place).

Inside a stage (scmf.data.stages) the shares stand still: its places are divided among the groups once, shuffled by
the keyed permutation, and how many draws each group had before it is in a table. A group goes through its own cells
without repetition, from the first stage to the end of the run. Behind the last stage the drawing is
`scmf.data.weighted`'s with the last shares. So a draw is two binary searches and two permutations; nothing is
remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from scmf.core.random import derive_seed
from scmf.data.apportion import Apportionment, EpochPlaces
from scmf.data.order import permute
from scmf.data.split import CellSet
from scmf.data.weighted import GroupDraws, WeightedDrawing, draws_at

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float64]


class GradualDrawing:
    """Groups of cells in proportions that move from stage to stage, and then stay."""

    def __init__(
        self, cells: CellSet, groups: IntArray, shares: Sequence[FloatArray], *, edges: LongArray, seed: int
    ) -> None:
        """Divide every stage: 16 bytes a group and stage are kept, and 4 bytes a training cell.

        Args:
            cells: the training cells.
            groups: (len(cells),) int32 group of the cell at each place of `cells`.
            shares: stages + 1 arrays, (n_groups,) float64: of each stage, and of all that follows.
            edges: (stages + 1,) int64 position in the run at which each stage begins, and the end of the last.
            seed: the run's.
        """
        self._seed = seed
        self._edges = edges
        present = np.bincount(groups, minlength=len(shares[0])) > 0
        self._stages = list(_divide([np.where(present, s, 0.0) for s in shares[:-1]], edges, seed))
        before = self._stages[-1].before + self._stages[-1].slots
        self._final = WeightedDrawing(cells, groups, shares[-1], seed=seed, before=before)

    def __len__(self) -> int:
        return len(self._final)

    def take(self, places: LongArray, *, epoch: int) -> LongArray:
        """Ids of the cells at these places. (k,) int64."""
        return self._final.cells_of(self._find(places, epoch))

    def mask_keys(self, places: LongArray, *, epoch: int) -> KeyArray:
        """Key of the corruption of each draw, a new one each time that a cell comes. (k,) uint64."""
        return self._final.keys_of(self._find(places, epoch))

    def moved_at(self, position: int) -> float:
        """Share of the way that the shares have moved at a position of the run, 0 to 1; what a stage draws by."""
        stage = int(np.searchsorted(self._edges, position, side="right")) - 1
        if stage == len(self._stages):
            return 1.0
        return float(self._edges[stage] + self._edges[stage + 1]) / 2 / float(self._edges[-1])

    def _find(self, places: LongArray, epoch: int) -> GroupDraws:
        """The draws at these places, stage by stage; behind the last stage by epochs that begin there."""
        positions = np.asarray(places, np.int64) + epoch * len(self)
        stages = np.searchsorted(self._edges, positions, side="right") - 1
        inside = positions - self._edges[stages]
        epochs = np.where(stages == len(self._stages), inside // len(self), 0)
        found = GroupDraws(np.empty(len(positions), np.int64), np.empty(len(positions), np.int64))
        for stage, number in sorted(set(zip(stages.tolist(), epochs.tolist(), strict=True))):
            here = (stages == stage) & (epochs == number)
            found.groups[here], found.numbers[here] = self._draws(inside[here], stage, number)
        return found

    def _draws(self, inside: LongArray, stage: int, epoch: int) -> GroupDraws:
        if stage == len(self._stages):
            return self._final.find(inside - epoch * len(self), epoch=epoch)
        length = int(self._edges[stage + 1] - self._edges[stage])
        slots = permute(inside, n=length, key=derive_seed(self._seed, "order/stage", stage))
        return draws_at(slots, self._stages[stage])


def _divide(shares: Sequence[FloatArray], edges: LongArray, seed: int) -> Iterator[EpochPlaces]:
    """The places of each stage by group, with the draws of each group before it.

    The offsets of the stages fill the interval evenly, as those of epochs do, so that a group whose share is less than
    a place a stage comes as often as it should.
    """
    offset = derive_seed(seed, "order/stages")
    before = np.zeros(len(shares[0]), np.int64)
    for stage, (share, length) in enumerate(zip(shares, np.diff(edges).tolist(), strict=True)):
        ends = Apportionment(share, length, offset=offset).epoch(stage).ends
        places = EpochPlaces(ends, before)
        yield places
        before = before + places.slots
