"""The cells of a run as step batches. In: a store and the `data` section. Out: the batch at any position.

A batch is a pure function of (seed, cells seen, global batch size) and the split: there is nothing to save but
how many cells the run has seen. Replicas see the same cells in the same order and each prepares its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from scmf.core.batch import StepBatch
from scmf.core.config import require
from scmf.core.errors import ConfigError
from scmf.data.collate import Collator
from scmf.data.config import CellsConfig, RankTokenizerConfig
from scmf.data.course import CellCourse
from scmf.data.curriculum import CurriculumDrawing
from scmf.data.drawing import BlockDrawing, RandomDrawing
from scmf.data.gradual import GradualDrawing
from scmf.data.labels import Labels, describe_labels, read_labels
from scmf.data.masks import Corruption
from scmf.data.objective import LabelColumn, Labelled, Objective, describe_objective
from scmf.data.packing import layout_of, share_by_length, share_by_neighbourhood
from scmf.data.rank import RankTokenizer, Tokens, refuse_other_rank_order
from scmf.data.readahead import Hints, expect_random_access
from scmf.data.seen import SeenCells
from scmf.data.split import CellSet, Splits
from scmf.data.step_stream import ALONE, Draw, Replica
from scmf.data.store import CellStore
from scmf.data.vocabulary import Vocabulary, load_vocabulary

__all__ = ["CellStream", "Draw", "Replica"]

LongArray = npt.NDArray[np.int64]


class CellStream(CellCourse[StepBatch]):
    """Step batches of one data-parallel replica, by position. No state decides what they are; any thread may ask."""

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
            StoreError: obs lacks the column to split by, or one of labels, or an indptr has a flipped bit.
        """
        corruption, columns = _parts_of(objective)
        tokenizer = require(config.tokenizer, RankTokenizerConfig, key="data.tokenizer")
        self.config = config
        self.align = align
        self.vocabulary: Vocabulary = load_vocabulary(tokenizer.vocabulary)
        seq_length = config.tokenizer.seq_length
        self.tokenizer = RankTokenizer(self.vocabulary, gene_ids=store.gene_ids, seq_length=seq_length)
        refuse_other_rank_order(store, self.vocabulary)
        super().__init__(store, config, seed=seed, replica=replica)
        self.labels: dict[str, Labels] = read_labels(store, self.splits.train, columns)
        """Targets of whole cells, by the objective's name."""
        self._collator = Collator(self.vocabulary, seq_length, corruption, self.labels)
        self._objective = objective

    def over(self, store: CellStore, cells: CellSet) -> CellStream:
        """The same tokens, packs and masks for other cells: what is trained, validated and tested on is those.

        Args:
            store: this stream's, or another one.
            cells: of that store.

        Raises:
            VocabularyError: the vocabulary knows no gene of the store, or ranks its cells otherwise.
            StoreError: obs of the store lacks a column of labels, or an indptr of it has a flipped bit.
        """
        other = copy(self)
        other.store, other.splits = store, Splits(train=cells, validation=cells, test=cells)
        other.drawing = RandomDrawing(cells, seed=self.seed)
        if store is not self.store:
            store.prove_boundaries()
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
    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must find unchanged to see the same cells, by name."""
        return {
            "store": self.store.fingerprint,
            "vocabulary": self.vocabulary.fingerprint,
            "tokenizer": f"{self.config.tokenizer.kind}, seq_length {self.config.tokenizer.seq_length}",
            **self.course_fingerprint,
            "corruption": describe_objective(self._objective),
            **describe_labels(self.labels),
            "seed": str(self.seed),
        }

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
        """Replica of each cell: packed, so that the replicas' cells are about equally long together."""
        if not self.config.packing or self.replica.of == 1:
            return super()._share(cell_ids)
        lengths = self.tokenizer.lengths_upper_bound(self.store, cell_ids)
        if isinstance(self.drawing, BlockDrawing):
            return share_by_neighbourhood(cell_ids, lengths, n_replicas=self.replica.of)
        return share_by_length(lengths, n_replicas=self.replica.of)


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
