"""Parts that hold the same cells. In: two stores. Out: which cells of one are cells of the other, from manifests alone.

`scmf-store add` and `merge` link parts of which nothing changes, so two stores may share most of their cells and
differ in their fingerprints. Equal arrays over equal genes are equal cells. (Cells that were converted in another way
have other arrays; a ledger, scmf.data.seen, knows those.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from scmf.core.errors import ConfigError
from scmf.data.store import CellStore

LongArray = npt.NDArray[np.int64]

_ARRAYS = ("X/data/c/0", "X/indices/c/0", "X/indptr/c/0")


def part_keys(store: CellStore) -> Iterator[str | None]:
    """What names the cells of each part, equal for equal cells; None for a part without values."""
    genes: dict[tuple[int, int], str] = {}
    for part, which in zip(store.parts, store.part_genes.tolist(), strict=True):
        if (which, part.n_genes) not in genes:
            genes[which, part.n_genes] = _name_of_genes(store, which, part.n_genes)
        arrays = " ".join(part.record.files[name].checksum for name in _ARRAYS)
        yield f"{genes[which, part.n_genes]} {arrays}" if part.n_values else None


def _name_of_genes(store: CellStore, which: int, n_genes: int) -> str:
    """Fingerprint of the genes of a part, in its order."""
    numbers = store.gene_maps[which][:n_genes].tolist() or range(n_genes)
    return xxhash.xxh3_128_hexdigest("\n".join(store.gene_ids[i] for i in numbers).encode())


class TwinParts:
    """Where the cells of one store lie in another."""

    def __init__(self, store: CellStore, other: CellStore) -> None:
        """Compare parts.

        Args:
            store: in which cells are looked for.
            other: whose cells.
        """
        self._other = other
        firsts: defaultdict[str | None, list[int]] = defaultdict(list)
        for key, first in zip(part_keys(store), store.part_starts.tolist(), strict=False):
            firsts[key].append(first)
        self._firsts = [firsts[key] if key is not None else [] for key in part_keys(other)]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return any(self._firsts)

    def ids_of(self, cell_ids: LongArray) -> Iterator[tuple[LongArray, LongArray]]:
        """Part by part, places among these cells of the other store, and the ids of the same cells in the store.

        Args:
            cell_ids: (k,) int64 of the other store. A cell that the store has several times comes as often.
        """
        numbers, rows = self._other.locate(cell_ids)
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            for first in self._firsts[number]:
                yield here, first + rows[here]


def refuse_twins(stores: Sequence[CellStore]) -> None:
    """Stores that are to be read as one share no part: a cell would come twice, and train and validate at once.

    Raises:
        ConfigError: two of them have the same cells.
    """
    seen: dict[str, tuple[CellStore, str]] = {}
    for store in stores:
        mine: dict[str, tuple[CellStore, str]] = {}
        for key, part in zip(part_keys(store), store.parts, strict=True):
            if key in seen:
                raise _twins(seen[key], (store, part.path.name))
            if key is not None:
                mine[key] = store, part.path.name
        seen |= mine


def _twins(first: tuple[CellStore, str], second: tuple[CellStore, str]) -> ConfigError:
    (one, part), (other, twin) = first, second
    return ConfigError(
        f"{part} of one store and {twin} of another have the same cells: they would be drawn twice, and could both "
        "train and validate",
        where=f"data.store: {one.path} and {other.path}",
        fix="name the store once that has them; to draw its cells more often give it a weight above 1",
    )
