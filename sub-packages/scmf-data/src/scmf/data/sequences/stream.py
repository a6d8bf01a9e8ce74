"""Text and ready tokens of a run as step batches. In: a store and the `data` section. Out: the batch at any position.

As for cells, a batch is a pure function of (seed, units seen, global batch size) and the split. What a run calls
`cells_seen` counts units here: windows of a text, or whole sequences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from scmf.core.batch import StepBatch
from scmf.core.config import require
from scmf.core.errors import ConfigError, VocabularyError
from scmf.core.random import derive_seed
from scmf.core.text import counted
from scmf.data.any_vocabulary import AnyVocabulary, roles_of
from scmf.data.characters import CharVocabulary
from scmf.data.config import CharTokenizerConfig, ContiguousSplitConfig, HashSplitConfig, SequencesConfig
from scmf.data.masks import Corruption
from scmf.data.objective import Objective, describe_objective
from scmf.data.packing import layout_of, share_by_count, share_by_length
from scmf.data.sequences.collate import SequenceCollator
from scmf.data.sequences.split import SPLITS, TokenRanges, contiguous_ranges, split_by_hash
from scmf.data.sequences.store import SequenceStore
from scmf.data.sequences.units import SequenceUnits, Taken, TargetSpace, Units, WindowUnits
from scmf.data.split import CellSet
from scmf.data.step_stream import ALONE, Draw, Replica, SplitName, StepStream

LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]


class SequenceStream:
    """Step batches of one data-parallel replica, by position. Holds no state that moves; any thread may ask."""

    def __init__(
        self,
        store: SequenceStore,
        config: SequencesConfig,
        *,
        objective: Objective,
        seed: int,
        replica: Replica = ALONE,
        align: int = 128,
    ) -> None:
        """Divide the tokens.

        Args:
            store: the sequences.
            config: the `data` section.
            objective: what is hidden or shifted.
            seed: the run's; decides order, masks, and the split by hash.
            replica: the share that this stream prepares.
            align: positions of every microbatch are a multiple of this.

        Raises:
            ConfigError: the split leaves a set empty that is asked for.
            VocabularyError: the store's vocabulary is not the one that the tokenizer asks for.
        """
        self.store = store
        self.config = config
        self.seed = seed
        self.replica = replica
        self.align = align
        self.objective: Objective = objective
        self.vocabulary: AnyVocabulary = store.vocabulary
        _refuse_other_vocabulary(config, store)
        roles = roles_of(self.vocabulary)
        self._shifted = not isinstance(objective, Corruption)
        self._bos = self._shifted and roles.bos is not None
        self._skip_first = self._shifted and not self._bos
        _refuse_without_targets(store, skip_first=self._skip_first)
        split = config.split
        self._moving = isinstance(split, ContiguousSplitConfig) and split.move_windows
        self.ranges: TokenRanges | None = None
        """Tokens of each split, where windows are the units."""
        self._units: dict[SplitName, Units] = self._divide()
        self._collator = SequenceCollator(store, roles, objective, seq_length=config.tokenizer.seq_length)

    @property
    def noun(self) -> str:
        """What one unit is called in sentences."""
        return "window" if isinstance(self.config.split, ContiguousSplitConfig) else "sequence"

    @property
    def n_train(self) -> int:
        """Units of an epoch."""
        return len(self._units["train"])

    @property
    def n_validation(self) -> int:
        """Units held out for validation."""
        return len(self._units["validation"])

    def n_of(self, split: SplitName) -> int:
        """Units of a split."""
        return len(self._units[split])

    def epoch(self, cells_seen: int) -> float:
        """Passes over the training units so far."""
        return cells_seen / self.n_train

    @property
    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must find unchanged to see the same tokens, by name."""
        split, tokenizer = self.config.split, self.config.tokenizer
        return {
            "store": self.store.fingerprint,
            "vocabulary": self.vocabulary.fingerprint,
            "tokenizer": f"{tokenizer.kind}, seq_length {tokenizer.seq_length}",
            "split": f"{split.kind}, validation {split.validation}, test {split.test}",
            "windows": "moving" if self._moving else "fixed",
            "objective": describe_objective(self.objective),
            "seed": str(self.seed),
        }

    def report(self) -> tuple[list[str], dict[str, Any]]:
        """How tokens are split and cut, for the console and for the run's record."""
        lines = [f"split  {self._describe_split()}"]
        moving = "; windows begin elsewhere in every epoch" if self._moving else ""
        if self.ranges is not None:
            lines.append(f"order  random windows of {self.config.tokenizer.seq_length:,} tokens{moving}")
        else:
            lines.append("order  random sequences")
            cut = int((self.store.lengths(np.arange(len(self.store))) > self.config.tokenizer.seq_length).sum())
            if cut:
                many = f"{counted(cut, 'sequence')} of {len(self.store):,}"
                lines.append(
                    f"       {many} are longer than {self.config.tokenizer.seq_length:,} tokens, and cut there"
                )
        return lines, {"split": self._describe_split(), "move_windows": self._moving}

    def draw(self, cells_seen: int) -> Draw:
        """Units of the step that begins after so many; a step may reach into the next epoch."""
        taken, keys = self._take(cells_seen)
        return Draw(taken.ids, keys)

    def step(self, cells_seen: int) -> StepBatch:
        """This replica's share of the step that begins after so many units.

        Raises:
            StoreError: an id outside the vocabulary: the store is damaged.
        """
        taken, keys = self._take(cells_seen)
        return self._prepare(self._units["train"], taken, keys)

    def validation(self, batch_index: int) -> StepBatch | None:
        """This replica's share of a validation batch: the same windows and masks every time; None behind the last."""
        return self.whole("validation", batch_index)

    def whole(self, split: SplitName, batch_index: int) -> StepBatch | None:
        """This replica's share of a batch of one pass over a split: every token once.

        Args:
            split: train, validation or test.
            batch_index: from 0; the last batch may have fewer units than the others.

        Returns:
            The batch, or None behind the last.
        """
        units, size = self._units[split], self.config.global_batch_size
        start, stop = batch_index * size, min((batch_index + 1) * size, len(units))
        if start >= stop:
            return None
        # The windows of an evaluation are those of an epoch that no training reaches.
        taken = units.take(np.arange(start, stop, dtype=np.int64), epoch=0 if split != "train" else -1)
        keys = np.full(stop - start, derive_seed(self.seed, f"mask/{split}"), np.uint64)
        return self._prepare(units, taken, keys)

    def _take(self, cells_seen: int) -> tuple[Taken, KeyArray]:
        units = self._units["train"]
        positions = cells_seen + np.arange(self.config.global_batch_size, dtype=np.int64)
        epochs, places = np.divmod(positions, len(units))
        taken, keys = [], np.empty(len(positions), np.uint64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            taken.append(units.take(places[here], epoch=epoch))
            keys[here] = derive_seed(self.seed, "mask", epoch)
        joined = (np.concatenate(arrays) for arrays in zip(*((t.ids, t.starts, t.lengths) for t in taken), strict=True))
        return Taken(*joined), keys

    def _prepare(self, units: Units, taken: Taken, keys: KeyArray) -> StepBatch:
        mine = np.flatnonzero(self._share(taken.lengths) == self.replica.number)
        own = taken.part(mine)
        layout = layout_of(own.lengths, self.config, align=self.align)
        microbatches = self._collator.collate(own, units.pieces(own), keys=keys[mine], layout=layout)
        return StepBatch(microbatches, cells=len(taken.ids), cell_ids=taken.ids)

    def _share(self, lengths: LongArray) -> LongArray:
        """Replica of each unit."""
        if self.config.packing:
            return share_by_length(lengths, n_replicas=self.replica.of)
        return share_by_count(len(lengths), n_replicas=self.replica.of)

    def _divide(self) -> dict[SplitName, Units]:
        split = self.config.split
        if isinstance(split, ContiguousSplitConfig):
            self.ranges = contiguous_ranges(self.store.n_tokens, split)
            return {name: self._windows(name, self.ranges) for name in SPLITS}
        split = require(split, HashSplitConfig, key="data.split")
        sets = split_by_hash(self.store.hashes, split, seed=self.seed)
        return {name: self._sequences(name, sets[name]) for name in SPLITS}

    def _windows(self, split: SplitName, ranges: TokenRanges) -> Units:
        start, stop = ranges.of(split)
        return WindowUnits(
            TargetSpace.of(self.store.places, start, stop, skip_first=self._skip_first, bos=self._bos),
            size=self.config.tokenizer.seq_length,
            seed=self.seed,
            purpose=f"order/{split}" if split != "train" else "order",
            moving=self._moving and split == "train",
        )

    def _sequences(self, split: SplitName, chosen: CellSet) -> Units:
        return SequenceUnits(
            chosen,
            self.store.places,
            limit=self.config.tokenizer.seq_length,
            skip_first=self._skip_first,
            bos=self._bos,
            seed=self.seed,
            purpose=f"order/{split}" if split != "train" else "order",
        )

    def _describe_split(self) -> str:
        if self.ranges is not None:
            return str(self.ranges)
        return "; ".join(f"{name} {counted(self.n_of(name), 'sequence')}" for name in SPLITS if self.n_of(name))


def open_stream(config: SequencesConfig, **place: Any) -> StepStream:
    """The step batches of a `data` section.

    Args:
        config: the section.
        place: what SequenceStream takes beside store and config.

    Raises:
        ScmfError: the store or the section cannot be used.
    """
    return SequenceStream(SequenceStore.open(config.store), config, **place)


def _refuse_other_vocabulary(config: SequencesConfig, store: SequenceStore) -> None:
    """The tokenizer asks for what the store has."""
    tokenizer, vocabulary = config.tokenizer, store.vocabulary
    if not isinstance(tokenizer, CharTokenizerConfig):
        return
    if not isinstance(vocabulary, CharVocabulary):
        raise VocabularyError(
            f"the store has ready tokens of {vocabulary.name}, and data.tokenizer.kind=char asks for characters",
            where=str(store.path),
            fix="write data.tokenizer.kind: stored",
        )
    found = len(vocabulary.characters)
    if tokenizer.characters not in (None, found):
        raise VocabularyError(
            f"the store has {found:,} different characters, and data.tokenizer.characters={tokenizer.characters}",
            where=str(store.path),
            fix=f"write data.tokenizer.characters: {found}, or null for any number",
        )


def _refuse_without_targets(store: SequenceStore, *, skip_first: bool) -> None:
    """Some sequence has a token that can be predicted."""
    if store.manifest.longest <= int(skip_first):
        raise ConfigError(
            f"no sequence of the store has more than {store.manifest.longest:,} token, and without <bos> the first one "
            "has nothing that it could be predicted from",
            where=f"{store.path}, model.task",
            fix="use the task mlm, or convert longer sequences",
        )
