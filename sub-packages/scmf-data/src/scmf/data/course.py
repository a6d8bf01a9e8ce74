"""The cells of a run, and when each comes. In: a store and how to draw from it. Out: any step's cells, shared out.

What is made of the cells is the subclass's: tokens in `scmf.data.stream`, counts in `scmf.data.counts`. A step is a
pure function of (seed, cells seen, cells a step) and the split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from scmf.core.errors import StoreError
from scmf.core.random import derive_seed
from scmf.data.config import SplitConfig
from scmf.data.config_order import BlockOrderConfig, CurriculumConfig, OrderConfig, SamplingConfig
from scmf.data.curriculum import curriculum_drawing
from scmf.data.drawing import BlockDrawing, Drawing, RandomDrawing, in_id_order
from scmf.data.order import permute
from scmf.data.packing import share_by_count, share_by_neighbourhood
from scmf.data.readahead import Hints, ask_for_cells, expect_random_access
from scmf.data.sampling import weighted_drawing
from scmf.data.split import CellSet, Splits, describe_named, named_split, split_cells
from scmf.data.stand_ins import StandIns
from scmf.data.step_stream import ALONE, Draw, Replica, SplitName
from scmf.data.store import CellStore

LongArray = npt.NDArray[np.int64]
Step = TypeVar("Step")


class CourseConfig(Protocol):
    """The part of a configuration that says which cells come when."""

    @property
    def split(self) -> SplitConfig:
        """Which cells train and which are held out."""
        ...

    @property
    def order(self) -> OrderConfig:
        """Which training cell comes when."""
        ...

    @property
    def sampling(self) -> SamplingConfig:
        """How often a cell is drawn."""
        ...

    @property
    def curriculum(self) -> CurriculumConfig | None:
        """Easy cells first, or None."""
        ...

    @property
    def global_batch_size(self) -> int:
        """Cells a step, over all replicas."""
        ...


class CellCourse(ABC, Generic[Step]):
    """The cells of one data-parallel replica, by position. Holds no state that moves; any thread may ask."""

    noun = "cell"
    """What one unit of `cells_seen` is called in sentences."""

    def __init__(self, store: CellStore, config: CourseConfig, *, seed: int, replica: Replica = ALONE) -> None:
        """Divide the cells.

        Args:
            store: the cells.
            config: which of them come when.
            seed: the run's; decides split and order.
            replica: the share that is prepared.

        Raises:
            ConfigError: the split leaves nothing to train on, or nothing can be drawn.
            StoreError: obs lacks a column to split or to draw by, or an indptr has a flipped bit.
        """
        store.prove_boundaries()
        self.store = store
        self.seed = seed
        self.replica = replica
        self.splits = _split(store, config.split, seed=seed)
        self.drawing: Drawing = make_drawing(store, self.splits.train, config, seed=seed)
        self._course = config
        self._hints = Hints(store)
        self._stand_ins = StandIns(seed)
        expect_random_access(store)

    @property
    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must find unchanged to see the same cells as the same, by name."""
        ...

    @abstractmethod
    def _prepare(self, draw: Draw, pool: CellSet) -> Step:
        """This replica's share of a draw; cells of the pool stand in for those that cannot be read."""
        ...

    @property
    def n_train(self) -> int:
        """Cells of an epoch."""
        return len(self.splits.train)

    @property
    def n_validation(self) -> int:
        """Cells held out for validation."""
        return len(self.splits.validation)

    def n_of(self, split: SplitName) -> int:
        """Cells of a split."""
        return len(getattr(self.splits, split))

    def epoch(self, cells_seen: int) -> float:
        """Passes over the training cells so far; with weights, draws divided by the number of training cells."""
        return cells_seen / self.n_train

    @property
    def course_fingerprint(self) -> dict[str, str]:
        """What a resumed run must find unchanged to see the same cells of the same store at the same time, by name."""
        split = self._course.split
        return {
            "split": f"by {split.by}, validation {split.validation}, test {split.test}"
            if split.name is None
            else f"named {split.name}: {describe_named(self.store, split.name)}",
            "order": str(self._course.order.model_dump(mode="json")),
            **self._paced_fingerprint(),
        }

    def step(self, cells_seen: int) -> Step:
        """This replica's share of the step that begins after so many cells."""
        with suppress(StoreError, OSError):  # a cell that cannot be read is dealt with when its step comes
            self._ask_ahead(cells_seen)
        return self._prepare(self.draw(cells_seen), self.splits.train)

    def draw(self, cells_seen: int) -> Draw:
        """Cells of the step that begins after so many cells; a step may reach into the next epoch."""
        positions = cells_seen + np.arange(self._course.global_batch_size, dtype=np.int64)
        epochs, places = np.divmod(positions, self.n_train)
        cell_ids = np.empty(len(positions), np.int64)
        keys = np.empty(len(positions), np.uint64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            cell_ids[here] = self.drawing.take(places[here], epoch=epoch)
            keys[here] = self.drawing.mask_keys(places[here], epoch=epoch)
        return Draw(cell_ids, keys)

    def validation(self, batch_index: int) -> Step | None:
        """This replica's share of a validation batch: the same cells and masks every time, no cell twice.

        The last batch may have fewer cells than the others; None behind it.
        """
        return self.whole("validation", batch_index)

    def whole(self, split: SplitName, batch_index: int) -> Step | None:
        """This replica's share of a batch of one pass over a split: every cell once, with masks of its own.

        Args:
            split: train, validation or test.
            batch_index: from 0; the last batch may have fewer cells than the others.

        Returns:
            The batch, or None behind the last.
        """
        cells: CellSet = getattr(self.splits, split)
        size = self._course.global_batch_size
        start, stop = batch_index * size, min((batch_index + 1) * size, len(cells))
        if start >= stop:
            return None
        places = permute(np.arange(start, stop), n=len(cells), key=derive_seed(self.seed, f"order/{split}"))
        masks = np.full(stop - start, derive_seed(self.seed, f"mask/{split}"), np.uint64)
        return self._prepare(Draw(cells.take(places), masks), cells)

    def _ask_ahead(self, cells_seen: int) -> None:
        """Where the order has windows, and a step begins one: ask for this replica's cells of the next one, sorted.

        So that a disk reads whole blocks once, before they are needed. (The first window of a run is not announced.)
        """
        drawing, size = self.drawing, self._course.global_batch_size
        if not isinstance(drawing, BlockDrawing):
            return
        window = drawing.window
        if cells_seen % window >= size or window <= size:
            return
        positions = range(cells_seen // window * window + window, cells_seen // window * window + 2 * window, size)
        mine = [draw.cell_ids[self._share(draw.cell_ids) == self.replica.number] for draw in map(self.draw, positions)]
        ask_for_cells(self.store, np.sort(np.concatenate(mine)))

    def _share(self, cell_ids: LongArray) -> LongArray:
        """Replica of each cell, from what every replica can see without reading values. (k,) int64."""
        n_replicas = self.replica.of
        if n_replicas == 1:
            return np.zeros(len(cell_ids), np.int64)
        if isinstance(self.drawing, BlockDrawing):
            return share_by_neighbourhood(cell_ids, np.ones(len(cell_ids), np.int64), n_replicas=n_replicas)
        return share_by_count(len(cell_ids), n_replicas=n_replicas)

    def _paced_fingerprint(self) -> dict[str, str]:
        """How often cells come, and when; what takes steps takes the same cells at another batch size."""
        sampling, curriculum = self._course.sampling.identity(), self._course.curriculum
        found = {"sampling": str(self._in_cells(sampling))}
        if curriculum is not None:
            found["curriculum"] = str(self._in_cells(curriculum.model_dump(mode="json")))
        return found

    def _in_cells(self, section: dict[str, Any]) -> dict[str, Any]:
        steps = section.pop("steps", None)
        return section if steps is None else {**section, "cells": steps * self._course.global_batch_size}


def make_drawing(store: CellStore, train: CellSet, config: CourseConfig, *, seed: int) -> Drawing:
    """Which training cell stands at which place of an epoch.

    Args:
        store: the cells.
        train: the training cells.
        config: order, sampling and cells a step; the weights of several stores are the store's.
        seed: the run's.

    Raises:
        StoreError: obs lacks a column, or it holds no weights.
        ConfigError: no cell can be drawn.
    """
    batch = config.global_batch_size
    if config.curriculum is not None:
        return curriculum_drawing(store, train, config.curriculum, batch=batch, seed=seed)
    weighted = weighted_drawing(store, train, config.sampling, batch=batch, seed=seed)
    if weighted is not None:
        return weighted
    if isinstance(config.order, BlockOrderConfig):
        cells = in_id_order(train, n_cells=len(store))
        return BlockDrawing(cells, seed=seed, block=config.order.block, window=config.order.window)
    return RandomDrawing(train, seed=seed)


def _split(store: CellStore, split: SplitConfig, *, seed: int) -> Splits:
    if split.name is not None:
        return named_split(store, split.name)
    return split_cells(store, by=split.by, validation=split.validation, test=split.test, seed=seed)
