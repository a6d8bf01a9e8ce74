"""Easy cells first. In: a difficulty for each training cell. Out: cells by (epoch, place), from ever more of them.

The training cells are sorted by difficulty once. In a stage of the run (scmf.data.stages) the easiest of them, as many
as the pacing admits, are drawn through again and again, each time in a new order: inside a stage no cell comes twice
before all admitted have come. Behind the last stage every training cell comes once in as many draws as there are
training cells. So a draw is a division and a permutation of its position; nothing is remembered.

Source: Platanios et al., Competence-based Curriculum Learning, NAACL 2019.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from scmf.core.errors import ConfigError, StoreError
from scmf.core.random import derive_seed
from scmf.data.config_order import CurriculumConfig
from scmf.data.drawing import RandomDrawing, id_chunks
from scmf.data.order import permute
from scmf.data.split import CellSet
from scmf.data.stages import stage_edges
from scmf.data.store import CellStore

LongArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
KeyArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float64]


class CurriculumDrawing:
    """The easiest training cells, ever more of them, and then all."""

    def __init__(
        self, cells: CellSet, difficulty: FloatArray, config: CurriculumConfig, *, batch: int, seed: int
    ) -> None:
        """Sort the cells: 12 bytes a training cell are kept (16 above two billion cells).

        Args:
            cells: the training cells.
            difficulty: (len(cells),) float64 of the cell at each place of `cells`; finite. Equal ones stay in order.
            config: pacing and direction.
            batch: cells a step.
            seed: the run's.

        Raises:
            ConfigError: the first stage has fewer cells than a step draws.
        """
        self._cells = cells
        self._seed = seed
        self._difficulty = difficulty
        kind = np.int32 if len(cells) < 2**31 else np.int64
        order = np.argsort(-difficulty if config.hard_first else difficulty, kind="stable")
        self._order = order.astype(kind)
        self._edges = stage_edges(config.steps, batch=batch)
        shares = [config.share_at(edge / self._edges[-1]) for edge in self._edges[:-1].tolist()]
        # A fifth of 20 cells is 4 cells, also where the product of floats is 4.000000001.
        self._admitted: LongArray = np.ceil(np.array(shares) * len(cells) - 1e-6).astype(np.int64)
        self._everything = RandomDrawing(cells, seed=seed)
        _refuse_few(int(self._admitted[0]), len(cells), config, batch=batch)

    def __len__(self) -> int:
        return len(self._order)

    def take(self, places: LongArray, *, epoch: int) -> LongArray:
        """Ids of the cells at these places. (k,) int64."""
        positions, stages = self._find(places, epoch)
        out = np.empty(len(positions), np.int64)
        for stage, turn, here, inside in self._turns(positions, stages):
            if stage == len(self._admitted):
                out[here] = self._everything.take(inside, epoch=turn)
                continue
            key = derive_seed(self._seed, "order/curriculum", stage, turn)
            place = permute(inside, n=int(self._admitted[stage]), key=key)
            out[here] = self._cells.take(self._order[place].astype(np.int64))
        return out

    def mask_keys(self, places: LongArray, *, epoch: int) -> KeyArray:
        """Key of the corruption of each of these draws, a new one each time that a cell comes. (k,) uint64."""
        positions, stages = self._find(places, epoch)
        out = np.empty(len(positions), np.uint64)
        for stage, turn, here, _ in self._turns(positions, stages):
            last = stage == len(self._admitted)
            out[here] = derive_seed(
                self._seed, "mask" if last else "mask/curriculum", *(() if last else (stage,)), turn
            )
        return out

    def bound_at(self, position: int) -> tuple[int, float]:
        """How many cells may be drawn at a position of the run, and the difficulty of the hardest of them."""
        stage = int(np.searchsorted(self._edges, position, side="right")) - 1
        admitted = len(self) if stage == len(self._admitted) else int(self._admitted[stage])
        return admitted, float(self._difficulty[self._order[admitted - 1]])

    def _find(self, places: LongArray, epoch: int) -> tuple[LongArray, LongArray]:
        """(k,) int64 positions in the run, and the stage of each; the number of stages behind the last one."""
        positions = np.asarray(places, np.int64) + epoch * len(self)
        return positions, np.searchsorted(self._edges, positions, side="right") - 1

    def _turns(self, positions: LongArray, stages: LongArray) -> Iterator[tuple[int, int, BoolArray, LongArray]]:
        """The draws by stage and by how often the stage has gone through its cells: (stage, turn, which, places)."""
        sizes = np.append(self._admitted, len(self))
        turns, inside = np.divmod(positions - self._edges[stages], sizes[stages])
        for stage, turn in sorted(set(zip(stages.tolist(), turns.tolist(), strict=True))):
            here = (stages == stage) & (turns == turn)
            yield stage, turn, here, inside[here]


def curriculum_drawing(
    store: CellStore, cells: CellSet, config: CurriculumConfig, *, batch: int, seed: int
) -> CurriculumDrawing:
    """The drawing that a curriculum asks for.

    Args:
        store: has the lengths, and the column that the section names.
        cells: the training cells.
        config: of the `data` section.
        batch: cells a step.
        seed: the run's.

    Raises:
        StoreError: no such column, or a cell without a number in it.
        ConfigError: the first stage has fewer cells than a step draws.
    """
    values = None if config.by == "length" else _column(store, config.by)
    parts = [store.lengths(ids) if values is None else values[ids] for ids in id_chunks(cells)]
    return CurriculumDrawing(cells, np.concatenate(parts).astype(np.float64), config, batch=batch, seed=seed)


def _column(store: CellStore, column: str) -> FloatArray:
    """(n_cells,) float64 values of a column of numbers."""
    from scmf.data.obs import numbers_of  # anndata takes a second to import

    values = numbers_of(store.obs([column])[column])
    bad = ~np.isfinite(values)
    if bad.any():
        raise StoreError(
            f"obs column {column!r} is no column of difficulties: {int(bad.sum()):,} of {len(values):,} cells have no "
            f"finite number; the first is cell {int(bad.argmax()):,}",
            where=f"{store.path}, data.curriculum.by",
            fix="name a column of numbers without missing values, or write by: length",
        )
    return values


def _refuse_few(admitted: int, n_cells: int, config: CurriculumConfig, *, batch: int) -> None:
    if admitted < batch <= n_cells:
        least = np.ceil(batch / n_cells * 1000) / 1000
        raise ConfigError(
            f"data.curriculum.start={config.start} begins with {admitted:,} of {n_cells:,} training cells, and a step "
            f"draws {batch:,}",
            where="data.curriculum.start",
            fix=f"use at least {least}, or a smaller data.global_batch_size"
            if least < 1
            else "use a smaller data.global_batch_size, or curriculum: null",
        )
