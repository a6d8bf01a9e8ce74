"""The cells of a run as step batches. In: a store and the `data` section. Out: the batch at any position.

A batch is a pure function of (seed, cells seen, global batch size) and the split: there is nothing to save but
how many cells the run has seen. Replicas see the same cells in the same order and each prepares its share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scmf.core.batch import StepBatch
from scmf.core.errors import ConfigError
from scmf.core.random import derive_seed
from scmf.data.collate import Collator
from scmf.data.config import DataConfig
from scmf.data.masks import Corruption
from scmf.data.order import permute
from scmf.data.packing import Layout, packed_layout, padded_layout, share_by_count, share_by_length
from scmf.data.rank import RankTokenizer
from scmf.data.readahead import ask_for_cells, expect_random_access
from scmf.data.split import split_cells
from scmf.data.store import CellStore
from scmf.data.vocabulary import Vocabulary, load_vocabulary

LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Replica:
    """Which data-parallel replica of how many."""

    number: int = 0
    of: int = 1


@dataclass(frozen=True, slots=True)
class Draw:
    """Cells of one step, over all replicas."""

    cell_ids: LongArray
    """(cells,) int64 ids in the order in which they were drawn."""
    keys: KeyArray
    """(cells,) uint64 key of each cell's corruption; one key an epoch."""


class CellStream:
    """Step batches of one data-parallel replica, by position. Holds no state that moves; any thread may ask."""

    def __init__(
        self,
        store: CellStore,
        config: DataConfig,
        *,
        corruption: Corruption,
        seed: int,
        replica: Replica = Replica(),
        align: int = 128,
    ) -> None:
        """Load the vocabulary and divide the cells.

        Args:
            store: the cells.
            config: the `data` section.
            corruption: of the masked language model.
            seed: the run's; decides split, order and masks.
            replica: the share that this stream prepares.
            align: positions of every microbatch are a multiple of this.

        Raises:
            ConfigError: the split leaves nothing to train on.
            VocabularyError: no such vocabulary, or it knows no gene of the store.
            StoreError: obs lacks the column to split by.
        """
        self.store = store
        self.config = config
        self.seed = seed
        self.replica = replica
        self.align = align
        self.vocabulary: Vocabulary = load_vocabulary(config.tokenizer.vocabulary)
        seq_length = config.tokenizer.seq_length
        self.tokenizer = RankTokenizer(self.vocabulary, gene_ids=store.gene_ids, seq_length=seq_length)
        split = config.split
        self.splits = split_cells(store, by=split.by, validation=split.validation, test=split.test, seed=seed)
        self._collator = Collator(self.vocabulary, seq_length, corruption)
        expect_random_access(store)

    @property
    def n_train(self) -> int:
        """Cells of an epoch."""
        return len(self.splits.train)

    @property
    def n_validation(self) -> int:
        """Cells held out for validation."""
        return len(self.splits.validation)

    def epoch(self, cells_seen: int) -> float:
        """Passes over the training cells so far."""
        return cells_seen / self.n_train

    @property
    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must find unchanged to see the same cells, by name."""
        split, corruption = self.config.split, self._collator.corruption
        return {
            "store": self.store.fingerprint,
            "vocabulary": self.vocabulary.fingerprint,
            "tokenizer": f"{self.config.tokenizer.kind}, seq_length {self.config.tokenizer.seq_length}",
            "split": f"by {split.by}, validation {split.validation}, test {split.test}",
            "corruption": f"select {corruption.select}, mask {corruption.mask}, random {corruption.random}",
            "seed": str(self.seed),
        }

    def step(self, cells_seen: int) -> StepBatch:
        """This replica's share of the step that begins after so many cells."""
        return self._prepare(self.draw(cells_seen))

    def draw(self, cells_seen: int) -> Draw:
        """Cells of the step that begins after so many cells; a step may reach into the next epoch."""
        positions = cells_seen + np.arange(self.config.global_batch_size, dtype=np.int64)
        epochs, places = np.divmod(positions, self.n_train)
        cell_ids = np.empty(len(positions), np.int64)
        keys = np.empty(len(positions), np.uint64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            order = permute(places[here], n=self.n_train, key=derive_seed(self.seed, "order", epoch))
            cell_ids[here] = self.splits.train.take(order)
            keys[here] = derive_seed(self.seed, "mask", epoch)
        return Draw(cell_ids, keys)

    def validation(self, batch_index: int) -> StepBatch | None:
        """This replica's share of a validation batch: the same cells and masks every time, no cell twice.

        The last batch may have fewer cells than the others; None behind it.
        """
        size = self.config.global_batch_size
        start, stop = batch_index * size, min((batch_index + 1) * size, self.n_validation)
        if start >= stop:
            return None
        key = derive_seed(self.seed, "order/validation")
        places = permute(np.arange(start, stop), n=self.n_validation, key=key)
        masks = np.full(stop - start, derive_seed(self.seed, "mask/validation"), np.uint64)
        return self._prepare(Draw(self.splits.validation.take(places), masks))

    def _prepare(self, draw: Draw) -> StepBatch:
        mine = np.flatnonzero(self._share(draw.cell_ids) == self.replica.number)
        cell_ids = draw.cell_ids[mine]
        ask_for_cells(self.store, cell_ids)
        tokens = self.tokenizer.encode(self.store, cell_ids)
        layout = self._layout(tokens.lengths)
        microbatches = self._collator.collate(tokens, cell_ids=cell_ids, keys=draw.keys[mine], layout=layout)
        return StepBatch(microbatches, cells=len(draw.cell_ids), cell_ids=draw.cell_ids)

    def _share(self, cell_ids: LongArray) -> LongArray:
        """Replica of each cell, from what every replica can see without reading values."""
        n_replicas = self.replica.of
        if n_replicas == 1:
            return np.zeros(len(cell_ids), np.int64)
        if not self.config.packing:
            return share_by_count(len(cell_ids), n_replicas=n_replicas)
        return share_by_length(self.tokenizer.lengths_upper_bound(self.store, cell_ids), n_replicas=n_replicas)

    def _layout(self, lengths: LongArray) -> Layout:
        budget, cells = self.config.microbatch_tokens, self.config.micro_batch_size
        if self.config.packing and budget is not None:
            return packed_layout(lengths, budget=budget, align=self.align)
        if not self.config.packing and cells is not None:
            return padded_layout(lengths, cells=cells, align=self.align)
        raise ConfigError(
            f"packing={self.config.packing} with microbatch_tokens={budget} and micro_batch_size={cells}",
            where="data",
            fix="packing needs microbatch_tokens, padding needs micro_batch_size",
        )
