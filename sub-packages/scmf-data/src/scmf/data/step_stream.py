"""What a trainer asks of any data. In: a position. Out: that step's batch, for this replica.

`scmf.data.stream.CellStream` (cells) and `scmf.data.sequences.stream.SequenceStream` (text, ready tokens) meet it.
The position is called `cells_seen` for all of them: for text a "cell" is one window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from scmf.core.batch import StepBatch
from scmf.data.config import DataConfig
from scmf.data.labels import Labels
from scmf.data.seen import SeenCells

LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]
SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Replica:
    """Which data-parallel replica of how many."""

    number: int = 0
    of: int = 1


ALONE: Final = Replica()
"""The only replica."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Cells (or windows) of one step, over all replicas."""

    cell_ids: LongArray
    """(cells,) int64 ids in the order in which they were drawn."""
    keys: KeyArray
    """(cells,) uint64 key of each cell's corruption; one key an epoch."""


class StoreLike(Protocol):
    """What a run says and records about its store."""

    @property
    def fingerprint(self) -> str:
        """Changes when what the store holds changes."""
        ...

    @property
    def contents(self) -> str:
        """How much it holds, for a sentence: `2,170 cells`."""
        ...

    def __len__(self) -> int:
        """Cells, or sequences."""
        ...


class VocabularyLike(Protocol):
    """What travels with a run: the meaning of its token ids."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for two vocabularies that give equal tokens."""
        ...

    def __len__(self) -> int:
        """Token ids, special tokens included: the model's vocabulary size."""
        ...

    def save(self, path: str | Path) -> None:
        """Write the one file that scmf.data.any_vocabulary.read_vocabulary reads."""
        ...


class StepStream(Protocol):
    """Step batches of one data-parallel replica, by position. Holds no state that moves; any thread may ask."""

    @property
    def config(self) -> DataConfig:
        """The `data` section."""
        ...

    @property
    def store(self) -> StoreLike:
        """Where the tokens come from."""
        ...

    @property
    def vocabulary(self) -> VocabularyLike:
        """What the tokens mean."""
        ...

    @property
    def noun(self) -> str:
        """What one unit of `cells_seen` is called in sentences: cell, window or sequence."""
        ...

    @property
    def n_train(self) -> int:
        """Cells of an epoch."""
        ...

    @property
    def n_validation(self) -> int:
        """Cells held out for validation."""
        ...

    def n_of(self, split: SplitName) -> int:
        """Cells of a split."""
        ...

    @property
    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must find unchanged to see the same cells, by name."""
        ...

    def epoch(self, cells_seen: int) -> float:
        """Passes over the training cells so far."""
        ...

    def draw(self, cells_seen: int) -> Draw:
        """Cells of the step that begins after so many cells; a step may reach into the next epoch."""
        ...

    def step(self, cells_seen: int) -> StepBatch:
        """This replica's share of the step that begins after so many cells."""
        ...

    def validation(self, batch_index: int) -> StepBatch | None:
        """This replica's share of a validation batch, the same every time; None behind the last."""
        ...

    def whole(self, split: SplitName, batch_index: int) -> StepBatch | None:
        """This replica's share of a batch of one pass over a split: every cell and every target of it once.

        The validation split comes as `validation` gives it. None behind the last.
        """
        ...


@runtime_checkable
class Reporting(Protocol):
    """A stream that has something to say before a run begins."""

    def report(self) -> tuple[list[str], dict[str, Any]]:
        """Lines for the console, and plain values for the run's record."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A stream whose cells a ledger can hold, so that evaluation can tell what a model was trained on."""

    def begin_seen(self) -> SeenCells:
        """A record of the cells that a run has seen, with nothing in it."""
        ...


@runtime_checkable
class Labelling(Protocol):
    """A stream whose batches have targets of whole cells."""

    @property
    def labels(self) -> Mapping[str, Labels]:
        """By the objective's name; empty where the objective asks for none."""
        ...


@runtime_checkable
class Moving(Protocol):
    """A stream whose cells or shares change along the run, such as one with a curriculum."""

    def numbers_at(self, cells_seen: int) -> dict[str, float]:
        """Where they stand at the last cell seen, for metrics.jsonl; nothing where none moves."""
        ...
