"""More cells to validate on, by name. In: a run's stream and what the cells are. Out: a stream of them, made alike.

Their tokens, packs and masks are made as those of the run's own validation cells. A cell that the run trains on is
refused: its loss would measure memory.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from scmf.core.errors import ConfigError
from scmf.data.drawing import id_chunks
from scmf.data.joined import open_store
from scmf.data.split import CellSet, RunSet, named_sets
from scmf.data.store import CellStore
from scmf.data.stream import CellStream
from scmf.data.twin_parts import TwinParts

LongArray = npt.NDArray[np.int64]
Part = Literal["train", "validation", "test"]


def open_held_out(
    stream: CellStream, *, name: str, store: str | None, split: str | None, part: Part | None, key: str
) -> CellStream:
    """A stream whose validation cells are those that were named.

    Args:
        stream: of the run.
        name: of the cells, for messages.
        store: folder or address of another store; None for the run's own.
        split: named split that travels with the store; None for the run's own division, or for a whole other store.
        part: of the split; None for validation.
        key: of the configuration, for messages.

    Raises:
        StoreError: no such store or split.
        VocabularyError: the run's vocabulary knows no gene of the store.
        ConfigError: no cells, or cells that the run trains on.
    """
    other = stream.store if store is None else open_store(store, read=stream.config.read)
    cells = _cells(stream, other, split=split, part=part or "validation", key=key)
    if not len(cells):
        raise ConfigError(
            f"there are no cells to validate on under the name {name}",
            where=f"{other.path}, {key}",
            fix="name another split or part; scmf-store info lists them",
        )
    _refuse_training_cells(stream, other, cells, name=name, key=key)
    return stream.over(other, cells)


def _cells(stream: CellStream, other: CellStore, *, split: str | None, part: Part, key: str) -> CellSet:
    if split is not None:
        named: CellSet = getattr(named_sets(other, split, key=f"{key}.split"), part)
        return named
    if other is stream.store:
        own: CellSet = getattr(stream.splits, part)
        return own
    return RunSet(np.zeros(1, np.int64), np.array([0, len(other)], np.int64))


def _refuse_training_cells(stream: CellStream, other: CellStore, cells: CellSet, *, name: str, key: str) -> None:
    """Compare ids, where the other store has parts of the run's: it is the run's, one of several, or shares parts."""
    twins = TwinParts(stream.store, other)
    trained = sum(_trained(stream.splits.train, twins, ids) for ids in id_chunks(cells)) if twins else 0
    if trained:
        raise ConfigError(
            f"the run trains on {trained:,} of the {len(cells):,} cells that are called {name} here",
            where=f"{other.path}, {key}",
            fix="hold them out of training too (data.split.name names a split of the store), or name other cells",
        )


def _trained(train: CellSet, twins: TwinParts, cell_ids: LongArray) -> int:
    """How many of these cells of the other store train."""
    found = np.zeros(len(cell_ids), np.bool_)
    for here, ids in twins.ids_of(cell_ids):
        found[here] |= train.contains(ids)
    return int(found.sum())
