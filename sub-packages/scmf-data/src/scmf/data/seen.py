"""Which cells have been seen. In: a store and a ledger. Out: the seen and the unseen cells; and ledgers of stores.

Whoever measures a model on cells that it was trained on measures memory. A ledger (scmf.data.ledger) travels with
the checkpoint, so that evaluation can tell without the training data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from scmf.data.cell_hash import gene_keys, hash_cells
from scmf.data.ledger import Ledger
from scmf.data.store import CellStore

KeyArray = npt.NDArray[np.uint64]
LongArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_BLOCK: Final = 4096
"""Cells hashed at a time: about 64 MB."""
_IN_MEMORY: Final = 32_000_000
"""Hashes sorted at once: 256 MB. More are kept on disk and sorted in ranges."""


class CellHasher:
    """Hashes of cells of one store, by id."""

    def __init__(self, store: CellStore) -> None:
        self.store = store
        self._keys = gene_keys(store.gene_ids)

    def hash(self, cell_ids: npt.ArrayLike) -> KeyArray:
        """(n,) uint64 hash of each cell.

        Raises:
            IndexError: an id outside the store.
            StoreError: a damaged array.
        """
        batch = self.store.fetch(cell_ids)
        return hash_cells(batch.indptr, batch.indices, batch.counts, self._keys)

    def blocks(self, cell_ids: LongArray) -> Iterator[tuple[slice, KeyArray]]:
        """Places of a block of cells among `cell_ids`, and their hashes; block after block."""
        for start in range(0, len(cell_ids), _BLOCK):
            here = slice(start, min(start + _BLOCK, len(cell_ids)))
            yield here, self.hash(cell_ids[here])

    @property
    def about(self) -> dict[str, Any]:
        """What a ledger of these cells says of their store."""
        return {
            "store": self.store.fingerprint,
            "id_space": self.store.manifest.id_space,
            "genes": f"{int(np.bitwise_xor.reduce(self._keys, initial=np.uint64(0))):016x}",
        }


def ledger_of(
    store: CellStore,
    cell_ids: LongArray | None = None,
    *,
    scratch: Path | None = None,
    in_memory: int = _IN_MEMORY,
    on_cells: Callable[[int], None] | None = None,
) -> Ledger:
    """The ledger of a store, or of some of its cells. Every value is read once.

    Args:
        store: the cells.
        cell_ids: (n,) int64 which; default: all.
        scratch: folder for 8 bytes a cell, needed for more cells than `in_memory`; default: the system's.
        in_memory: cells whose hashes (8 bytes each, and as much again to sort) may be in memory.
        on_cells: called with the number of cells just hashed.

    Raises:
        StoreError: a damaged array.
    """
    hasher = CellHasher(store)
    ids = np.arange(len(store)) if cell_ids is None else cell_ids
    with tempfile.TemporaryFile(dir=scratch) as file:
        hashes: KeyArray = np.empty(len(ids), np.uint64)
        if len(ids) > in_memory:
            file.truncate(8 * len(ids))
            hashes = np.memmap(file, np.uint64, "r+", shape=(len(ids),))
        for here, block in hasher.blocks(ids):
            hashes[here] = block
            if on_cells is not None:
                on_cells(len(block))
        return Ledger.of(hashes, at_once=in_memory, kind="store", **hasher.about)


def are_seen(store: CellStore, ledger: Ledger, cell_ids: LongArray | None = None) -> BoolArray:
    """Whether each cell of a store is in a ledger.

    Args:
        store: the cells; another store than the ledger's, or the same.
        ledger: of a store or of a run.
        cell_ids: (n,) int64 which cells; default: all.

    Returns:
        (n,) bool. True for every cell that is in the ledger, and for one in `1 / ledger.false_positive_rate`
        of the others.
    """
    ids = np.arange(len(store)) if cell_ids is None else np.asarray(cell_ids, np.int64)
    seen = np.empty(len(ids), np.bool_)
    for here, hashes in CellHasher(store).blocks(ids):
        seen[here] = ledger.contains(hashes)
    return seen


@dataclass(frozen=True, slots=True)
class SeenSplit:
    """Cells by whether they were seen."""

    seen: LongArray
    """(k,) int64 ids of cells in the ledger, rising as they were given."""
    unseen: LongArray
    """(n - k,) int64 ids of the others: certainly not in the ledger."""
    by_chance: float
    """How many of `seen` are expected to be there by chance."""
    same_genes: bool
    """Whether the ledger's cells were counted over the same genes; if not, a seen cell may look unseen."""

    @property
    def share(self) -> float:
        """Share of the cells that were seen; 0 without cells."""
        return len(self.seen) / max(1, len(self.seen) + len(self.unseen))


def split_seen(store: CellStore, ledger: Ledger, cell_ids: LongArray | None = None) -> SeenSplit:
    """Divide cells into those that a ledger has and those that it has not.

    Evaluate on `unseen`: a ledger never forgets a cell, so none of them was trained on.

    Args:
        store: the cells to evaluate on.
        ledger: of the run whose checkpoint is evaluated, `Ledger.load(checkpoint_folder)`.
        cell_ids: (n,) int64 which cells; default: all.
    """
    ids = np.arange(len(store)) if cell_ids is None else np.asarray(cell_ids, np.int64)
    seen = are_seen(store, ledger, ids)
    rate = ledger.false_positive_rate
    about = CellHasher(store).about
    return SeenSplit(
        seen=ids[seen],
        unseen=ids[~seen],
        by_chance=float((~seen).sum() * rate / (1 - rate)),
        same_genes=about["genes"] == ledger.facts.genes and about["id_space"] == ledger.facts.id_space,
    )


class SeenCells:
    """What a run has seen so far, kept as the run goes on.

    One bit a cell of the store and the ids not yet hashed; hashing waits for `ledger`, which a save asks for.
    """

    def __init__(self, store: CellStore, *, n_train: int) -> None:
        """Begin with nothing seen.

        Args:
            store: the cells trained on.
            n_train: how many different cells will have been seen in the end.
        """
        self._hasher = CellHasher(store)
        self._known: npt.NDArray[np.uint8] = np.zeros(-(-len(store) // 8), np.uint8)
        self._waiting: list[LongArray] = []
        self._ledger = Ledger.of(np.empty(0, np.uint64), capacity=n_train, kind="run", **self._hasher.about)

    def add(self, cell_ids: LongArray) -> None:
        """Note cells of a step; those noted before cost a look at one bit each."""
        new = np.unique(cell_ids)
        new = new[(self._known[new >> 3] >> (new & 7).astype(np.uint8)) & 1 == 0]
        if len(new):
            np.bitwise_or.at(self._known, new >> 3, np.uint8(1) << (new & 7).astype(np.uint8))
            self._waiting.append(new)

    def ledger(self) -> Ledger:
        """The ledger of all cells noted so far; reads those noted since the last call.

        Raises:
            StoreError: a damaged array.
        """
        if self._waiting:
            ids = np.sort(np.concatenate(self._waiting))
            self._ledger = self._ledger.plus(np.concatenate([h for _, h in self._hasher.blocks(ids)]))
            self._waiting.clear()
        return self._ledger

    def go_on(self, ledger: Ledger) -> Self:
        """Begin with what a checkpoint's ledger has; cells that come again are in it already."""
        self._known[:] = 0
        self._waiting.clear()
        self._ledger = ledger
        return self
