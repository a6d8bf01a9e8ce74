"""One part of a cell store, read. In: its folder and what the manifest says of it. Out: its arrays, memory-mapped."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from scmf.core.errors import StoreError
from scmf.data.manifest import FileRecord, PartRecord, describe_file
from scmf.data.shard import damaged_file, map_shard

Array = npt.NDArray[Any]
LongArray = npt.NDArray[np.int64]


class Part:
    """One part's CSR arrays, memory-mapped and read-only; each is mapped when it is first asked for."""

    def __init__(self, path: Path, record: PartRecord, *, bring: Callable[[str], None] = lambda _: None) -> None:
        """Describe the part; nothing is opened.

        Args:
            path: folder of the part.
            record: what the manifest says about it.
            bring: called with the path of a file inside the part before that file is used.
        """
        self.path = path
        self.record = record
        self.n_genes = record.n_genes
        self.n_cells = record.n_cells
        self.n_values = record.n_values
        self._bring = bring
        self._mapped: dict[str, Array] = {}
        self._proved: set[str] = set()
        self._random = False
        self._lock = Lock()

    @classmethod
    def open(cls, store: Path, record: PartRecord) -> Self:
        """Map the part that the record describes; StoreError when a file is not what it says."""
        part = cls(store / record.name, record)
        for name in ("data", "indices", "indptr"):
            part.array(name)
        return part

    @property
    def data(self) -> Array:
        """(values,) uint16, uint32 or float32 counts, none of them zero."""
        return self.array("data")

    @property
    def indices(self) -> Array:
        """(values,) uint16 or uint32 gene numbers, rising inside a cell (or in rank order: see the manifest)."""
        return self.array("indices")

    @property
    def indptr(self) -> LongArray:
        """(n_cells + 1,) int64 first value of each cell; StoreError when it is not what the manifest says."""
        self.prove_boundaries()
        return self.array("indptr")

    def prove_boundaries(self) -> None:
        """Compare indptr with the manifest, once: a wrong boundary would give a cell's values to its neighbour.

        Half a millisecond for a million cells in memory.

        Raises:
            StoreError: a flipped bit.
        """
        self.array("indptr")
        self._prove("X/indptr/c/0")

    @property
    def is_mapped(self) -> bool:
        """Whether its arrays are here: those of a store that lies elsewhere come when they are needed."""
        return "indptr" in self._mapped

    def array(self, name: str) -> Array:
        """Map `data`, `indices` or `indptr`; the same mapping every time, for its address is known to others."""
        if name in self._mapped:  # without the lock: a process that is forked while it is held would never get it
            return self._mapped[name]
        with self._lock:
            if name not in self._mapped:
                self._mapped[name] = self._map(name)
                self._advise(name)
            return self._mapped[name]

    def expect_random_access(self) -> None:
        """Say that the values are read in no order, so that the system does not read on behind each."""
        with self._lock:
            self._random = True
            for name in self._mapped:
                self._advise(name)

    def let_go(self, name: str) -> None:
        """Unmap the pages of an array that this process has touched, so that the system may drop them."""
        self.array(name)
        self._give(name, "MADV_DONTNEED")

    def _advise(self, name: str) -> None:
        if self._random and name != "indptr":
            self._give(name, "MADV_RANDOM")

    def _give(self, name: str, advice: str) -> None:
        """Advice to the system about a whole array, where the system takes any."""
        view: Any = self._mapped[name].base
        if hasattr(mmap, advice) and isinstance(view.obj, mmap.mmap):
            view.obj.madvise(getattr(mmap, advice))

    def _map(self, name: str) -> Array:
        record, folder = self.record, self.path / "X" / name
        self._bring(f"X/{name}/c/0")
        if name != "indptr":
            dtype = record.counts_dtype if name == "data" else record.indices_dtype
            return map_shard(folder, dtype, record.n_values)
        indptr = map_shard(folder, np.int64, record.n_cells + 1)
        # Read, not mapped: touching a map brings megabytes around the two numbers with it.
        first, last = (_number_at(folder / "c" / "0", place) for place in (0, record.n_cells))
        if first != 0 or last != record.n_values:
            raise damaged(f"cells end at {last:,}, the part has {record.n_values:,} values", self.path, "indptr")
        return indptr

    def bring_obs(self, column: str | None = None) -> None:
        """Make sure that obs, or one column of it, is here and as it was written: a flipped bit is another label.

        Raises:
            StoreError: a file of it is missing, or is not what the manifest says.
        """
        self.bring_tables()
        wanted = "obs/" if column is None else f"obs/{column}/"
        for name in self.record.files:
            if name.startswith(wanted) or name == "obs/zarr.json":
                self._prove(name)

    def bring_tables(self) -> None:
        """Make sure that obs and var are there; they always are, but for a store that lies elsewhere."""
        for name in self.record.files:
            if not name.startswith("X/"):
                self._bring(name)

    def _prove(self, name: str) -> None:
        """Compare a file with the manifest, once."""
        if name not in self._proved:
            prove_file(self.path / name, self.record.files.get(name), store=self.path.parent)
            self._proved.add(name)

    def spans(self, rows: LongArray) -> tuple[LongArray, LongArray]:
        """(k,) starts and lengths of these rows' values; StoreError when a damaged indptr points outside."""
        starts = self.indptr[rows]
        lengths = self.indptr[rows + 1] - starts
        bad = (starts < 0) | (lengths < 0) | (starts + lengths > self.n_values)
        if bad.any():
            row = rows[bad.argmax()]
            raise damaged(f"cell {row:,} of the part lies outside its {self.n_values:,} values", self.path, "indptr")
        return starts, lengths


def as_ids(cell_ids: npt.ArrayLike) -> LongArray:
    """Ids as int64, whatever whole numbers they are.

    Raises:
        TypeError: they are a mask or fractions, of which numpy would make ids without a word.
    """
    ids = np.asarray(cell_ids)
    if ids.size and ids.dtype.kind not in "iu":
        hint = "; np.flatnonzero(mask) gives the ids of a mask" if ids.dtype.kind == "b" else ""
        raise TypeError(f"cell ids are whole numbers, and these are {ids.dtype}{hint}")
    return ids.astype(np.int64, copy=False)


def locate_cells(starts: LongArray, cell_ids: npt.ArrayLike) -> tuple[LongArray, LongArray]:
    """Where cells stand.

    Args:
        starts: (n_parts + 1,) int64 first cell of each part, and the number of cells.
        cell_ids: (k,) integers.

    Returns:
        (k,) int64 part number of each cell, and its row inside the part.

    Raises:
        IndexError: an id outside the store.
    """
    ids = as_ids(cell_ids)
    n_cells = int(starts[-1])
    if ids.size and (ids.min() < 0 or ids.max() >= n_cells):
        bad = ids[(ids < 0) | (ids >= n_cells)][0]
        raise IndexError(f"cell id {bad} is outside 0..{n_cells - 1} of the store")
    part_numbers = np.searchsorted(starts, ids, side="right") - 1
    return part_numbers, ids - starts[part_numbers]


def _number_at(file: Path, place: int) -> int:
    """One int64 of a file."""
    return int(np.fromfile(file, "<i8", count=1, offset=8 * place)[0])


def prove_file(path: Path, record: FileRecord | None, *, store: Path) -> None:
    """Compare a file of a store with its manifest.

    Args:
        path: the file.
        record: what the manifest says of it; None: nothing.
        store: folder of the store, for the message.

    Raises:
        StoreError: it is missing, or not what the manifest says.
    """
    if not path.is_file():
        raise damaged_file("the file is missing", path, store=store)
    if describe_file(path) != record:
        raise damaged_file("the file's bytes do not give the manifest's checksum", path, store=store)


def damaged(what: str, part: Path, array: str) -> StoreError:
    """Error about one array of a part."""
    return damaged_file(what, part / "X" / array, store=part.parent)
