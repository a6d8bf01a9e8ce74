"""The cells of a run as step batches. In: a store and the `data` section. Out: the batch at any position.

A batch is a pure function of (seed, cells seen, global batch size) and the split: there is nothing to save but
how many cells the run has seen. Replicas see the same cells in the same order and each prepares its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from scmf.core.batch import StepBatch
from scmf.core.config import require
from scmf.core.errors import ConfigError, StoreError
from scmf.core.random import derive_seed
from scmf.data.collate import Collator
from scmf.data.config import CellsConfig, RankTokenizerConfig, SplitConfig
from scmf.data.config_order import BlockOrderConfig
from scmf.data.curriculum import CurriculumDrawing, curriculum_drawing
from scmf.data.drawing import BlockDrawing, Drawing, RandomDrawing, in_id_order
from scmf.data.gradual import GradualDrawing
from scmf.data.labels import Labels, describe_labels, read_labels
from scmf.data.masks import Corruption
from scmf.data.objective import LabelColumn, Labelled, Objective, describe_objective
from scmf.data.order import permute
from scmf.data.packing import layout_of, share_by_count, share_by_length, share_by_neighbourhood
from scmf.data.rank import RankTokenizer, Tokens, refuse_other_rank_order
from scmf.data.readahead import Hints, ask_for_cells, expect_random_access
from scmf.data.sampling import weighted_drawing
from scmf.data.seen import SeenCells
from scmf.data.split import CellSet, Splits, describe_named, named_split, split_cells
from scmf.data.stand_ins import StandIns
from scmf.data.step_stream import ALONE, Draw, Replica, SplitName
from scmf.data.store import CellStore
from scmf.data.vocabulary import Vocabulary, load_vocabulary

__all__ = ["CellStream", "Draw", "Replica", "make_drawing"]

LongArray = npt.NDArray[np.int64]


class CellStream:
    """Step batches of one data-parallel replica, by position. No state decides what they are; any thread may ask."""

    noun = "cell"
    """What one unit of `cells_seen` is called in sentences."""

    def __init__(
        self,
        store: CellStore,
        config: CellsConfig,
        *,
        objective: Objective,
        seed: int,
        replica: Replica = ALONE,
        align: int = 128,
    ) -> None:
        """Load the vocabulary and divide the cells.

        Args:
            store: the cells.
            config: the `data` section.
            objective: the corruption of a masked language model, labels of whole cells, or both.
            seed: the run's; decides split, order and masks.
            replica: the share that this stream prepares.
            align: positions of every microbatch are a multiple of this.

        Raises:
            ConfigError: the split leaves nothing to train on, or the objective is not for cells.
            VocabularyError: no such vocabulary, or it knows no gene of the store.
            StoreError: obs lacks the column to split by, or one of labels.
        """
        corruption, columns = _parts_of(objective)
        tokenizer = require(config.tokenizer, RankTokenizerConfig, key="data.tokenizer")
        self.store = store
        self.config = config
        self.seed = seed
        self.replica = replica
        self.align = align
        self.vocabulary: Vocabulary = load_vocabulary(tokenizer.vocabulary)
        seq_length = config.tokenizer.seq_length
        self.tokenizer = RankTokenizer(self.vocabulary, gene_ids=store.gene_ids, seq_length=seq_length)
        refuse_other_rank_order(store, self.vocabulary)
        self.splits = _split(store, config.split, seed=seed)
        self.drawing: Drawing = make_drawing(store, self.splits.train, config, seed=seed)
        self.labels: dict[str, Labels] = read_labels(store, self.splits.train, columns)
        """Targets of whole cells, by the objective's name."""
        self._collator = Collator(self.vocabulary, seq_length, corruption, self.labels)
        self._objective = objective
        self._stand_ins = StandIns(seed)
        self._hints = Hints(store)
        expect_random_access(store)

    def over(self, store: CellStore, cells: CellSet) -> CellStream:
        """The same tokens, packs and masks for other cells: what is trained, validated and tested on is those.

        Args:
            store: this stream's, or another one.
            cells: of that store.

        Raises:
            VocabularyError: the vocabulary knows no gene of the store, or ranks its cells otherwise.
            StoreError: obs of the store lacks a column of labels.
        """
        other = copy(self)
        other.store, other.splits = store, Splits(train=cells, validation=cells, test=cells)
        other.drawing = RandomDrawing(cells, seed=self.seed)
        if store is not self.store:
            refuse_other_rank_order(store, self.vocabulary)
            other.tokenizer = RankTokenizer(
                self.vocabulary, gene_ids=store.gene_ids, seq_length=self.config.tokenizer.seq_length
            )
            columns = {name: one.column for name, one in self.labels.items()}
            other.labels = read_labels(store, cells, columns, decided=True)
            other._collator = replace(self._collator, labels=other.labels)  # noqa: SLF001  # its own class
            expect_random_access(store)
            other._hints = Hints(store)  # noqa: SLF001  # its own class
        return other

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
    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must find unchanged to see the same cells, by name."""
        split = self.config.split
        return {
            "store": self.store.fingerprint,
            "vocabulary": self.vocabulary.fingerprint,
            "tokenizer": f"{self.config.tokenizer.kind}, seq_length {self.config.tokenizer.seq_length}",
            "split": f"by {split.by}, validation {split.validation}, test {split.test}"
            if split.name is None
            else f"named {split.name}: {describe_named(self.store, split.name)}",
            "order": str(self.config.order.model_dump(mode="json")),
            **self._paced_fingerprint(),
            "corruption": describe_objective(self._objective),
            **describe_labels(self.labels),
            "seed": str(self.seed),
        }

    def _paced_fingerprint(self) -> dict[str, str]:
        """How often cells come, and when; what takes steps takes the same cells at another batch size."""
        sampling, curriculum = self.config.sampling.identity(), self.config.curriculum
        found = {"sampling": str(self._in_cells(sampling))}
        if curriculum is not None:
            found["curriculum"] = str(self._in_cells(curriculum.model_dump(mode="json")))
        return found

    def _in_cells(self, section: dict[str, Any]) -> dict[str, Any]:
        steps = section.pop("steps", None)
        return section if steps is None else {**section, "cells": steps * self.config.global_batch_size}

    def numbers_at(self, cells_seen: int) -> dict[str, float]:
        """Where curriculum and sampling stand at the last cell seen, for metrics.jsonl; nothing where none moves."""
        last = max(cells_seen - 1, 0)
        if isinstance(self.drawing, CurriculumDrawing):
            admitted, bound = self.drawing.bound_at(last)
            return {"curriculum/share": admitted / self.n_train, "curriculum/bound": bound}
        if isinstance(self.drawing, GradualDrawing):
            return {"sampling/moved": self.drawing.moved_at(last)}
        return {}

    def begin_seen(self) -> SeenCells:
        """A record of the cells that a run has seen, with nothing in it."""
        return SeenCells(self.store, n_train=self.n_train)

    def step(self, cells_seen: int) -> StepBatch:
        """This replica's share of the step that begins after so many cells."""
        with suppress(StoreError, OSError):  # a cell that cannot be read is dealt with when its step comes
            self._ask_ahead(cells_seen)
        return self._prepare(self.draw(cells_seen), self.splits.train)

    def draw(self, cells_seen: int) -> Draw:
        """Cells of the step that begins after so many cells; a step may reach into the next epoch."""
        positions = cells_seen + np.arange(self.config.global_batch_size, dtype=np.int64)
        epochs, places = np.divmod(positions, self.n_train)
        cell_ids = np.empty(len(positions), np.int64)
        keys = np.empty(len(positions), np.uint64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            cell_ids[here] = self.drawing.take(places[here], epoch=epoch)
            keys[here] = self.drawing.mask_keys(places[here], epoch=epoch)
        return Draw(cell_ids, keys)

    def validation(self, batch_index: int) -> StepBatch | None:
        """This replica's share of a validation batch: the same cells and masks every time, no cell twice.

        The last batch may have fewer cells than the others; None behind it.
        """
        return self.whole("validation", batch_index)

    def whole(self, split: SplitName, batch_index: int) -> StepBatch | None:
        """This replica's share of a batch of one pass over a split: every cell once, with masks of its own.

        Args:
            split: train, validation or test.
            batch_index: from 0; the last batch may have fewer cells than the others.

        Returns:
            The batch, or None behind the last.
        """
        cells: CellSet = getattr(self.splits, split)
        size = self.config.global_batch_size
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
        drawing, size = self.drawing, self.config.global_batch_size
        if not isinstance(drawing, BlockDrawing):
            return
        window = drawing.window
        if cells_seen % window >= size or window <= size:
            return
        positions = range(cells_seen // window * window + window, cells_seen // window * window + 2 * window, size)
        mine = [draw.cell_ids[self._share(draw.cell_ids) == self.replica.number] for draw in map(self.draw, positions)]
        ask_for_cells(self.store, np.sort(np.concatenate(mine)))

    def _prepare(self, draw: Draw, pool: CellSet) -> StepBatch:
        """This replica's share of a draw; cells of the pool stand in for those that cannot be read."""
        share, cell_ids, lost = self._stand_ins.read(draw.cell_ids, pool, self._share)
        mine = np.flatnonzero(share == self.replica.number)
        tokens, own_ids, bad = self._stand_ins.read(cell_ids[mine], pool, self._encode)
        layout = layout_of(tokens.lengths, self.config, align=self.align)
        microbatches = self._collator.collate(tokens, cell_ids=own_ids, keys=draw.keys[mine], layout=layout)
        replaced = (*[lost[place] for place in mine.tolist() if place in lost], *bad.values())
        return StepBatch(microbatches, cells=len(draw.cell_ids), cell_ids=draw.cell_ids, replaced=replaced)

    def _encode(self, cell_ids: LongArray) -> Tokens:
        return self._hints.reading(cell_ids, lambda: self.tokenizer.encode(self.store, cell_ids))

    def _share(self, cell_ids: LongArray) -> LongArray:
        """Replica of each cell, from what every replica can see without reading values."""
        n_replicas = self.replica.of
        if n_replicas == 1:
            return np.zeros(len(cell_ids), np.int64)
        if self.config.packing:
            lengths = self.tokenizer.lengths_upper_bound(self.store, cell_ids)
            if not isinstance(self.drawing, BlockDrawing):
                return share_by_length(lengths, n_replicas=n_replicas)
        else:
            lengths = np.ones(len(cell_ids), np.int64)
            if not isinstance(self.drawing, BlockDrawing):
                return share_by_count(len(cell_ids), n_replicas=n_replicas)
        return share_by_neighbourhood(cell_ids, lengths, n_replicas=n_replicas)


def make_drawing(store: CellStore, train: CellSet, config: CellsConfig, *, seed: int) -> Drawing:
    """Which training cell stands at which place of an epoch.

    Args:
        store: the cells.
        train: the training cells.
        config: the `data` section: its order, its sampling and the weights of its stores.
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


def _parts_of(objective: Objective) -> tuple[Corruption | None, Mapping[str, LabelColumn]]:
    """What is hidden of ranked cells, and which columns are labels."""
    if isinstance(objective, Corruption):
        return objective, {}
    if isinstance(objective, Labelled):
        return objective.corruption, objective.columns
    raise ConfigError(
        "the next token is predicted in text and other sequences; data.kind=cells has masked language models",
        where="model.task",
        fix="use the task mlm, or a store of sequences: data.kind: sequences (docs/sequences.md)",
    )
