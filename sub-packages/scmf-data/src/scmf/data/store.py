"""The cell store, read. In: a folder written by `scmf-store convert`. Out: cells by id, memory-mapped.

zarr is not in the hot path: the arrays are plain files. The tables (`obs`) are read through anndata.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from scmf.core.errors import StoreError
from scmf.data.manifest import Manifest, PartRecord, read_manifest
from scmf.data.reading import MAPPED, Reading, allow_files, choose_reading
from scmf.data.shard import damaged_file, map_shard

if TYPE_CHECKING:
    import pandas as pd

    from scmf.data.obsm import ObsmArray

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int32]
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
        """(n_cells + 1,) int64 first value of each cell."""
        return self.array("indptr")

    def array(self, name: str) -> Array:
        """Map `data`, `indices` or `indptr`; the same mapping every time, for its address is known to others."""
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

    def bring_tables(self) -> None:
        """Make sure that obs and var are there; they always are, but for a store that lies elsewhere."""
        for name in self.record.files:
            if not name.startswith("X/"):
                self._bring(name)

    def spans(self, rows: LongArray) -> tuple[LongArray, LongArray]:
        """(k,) starts and lengths of these rows' values; StoreError when a damaged indptr points outside."""
        starts = self.indptr[rows]
        lengths = self.indptr[rows + 1] - starts
        bad = (starts < 0) | (lengths < 0) | (starts + lengths > self.n_values)
        if bad.any():
            row = rows[bad.argmax()]
            raise damaged(f"cell {row:,} of the part lies outside its {self.n_values:,} values", self.path, "indptr")
        return starts, lengths


class CellGroups(NamedTuple):
    """Cells by the value of one column."""

    codes: IntArray
    """(n_cells,) int32 group of each cell, -1 where the value is missing."""
    names: tuple[str, ...]
    """Names of the groups, sorted."""


@dataclass(frozen=True, slots=True)
class CountsBatch:
    """Cells laid end to end (CSR), copied out of the store."""

    indptr: LongArray
    """(n + 1,) int64 first value of each cell."""
    indices: IntArray
    """(values,) int32 gene numbers, rising inside a cell."""
    counts: Array
    """(values,) counts in the store's widest type."""


class CellStore:
    """Read-only cells, numbered from 0 over all parts. Pickles as its path, so that workers map it anew."""

    def __init__(self, path: Path, manifest: Manifest, parts: tuple[Part, ...], *, reading: Reading = MAPPED) -> None:
        self.path = path
        self.manifest = manifest
        self.parts = parts
        self.reading = reading
        self.part_starts: LongArray = np.cumsum([0, *(p.n_cells for p in parts)], dtype=np.int64)
        self.counts_dtype: np.dtype[Any] = np.result_type(np.uint16, *(p.record.counts_dtype for p in parts))
        self.gene_maps: tuple[IntArray, ...] = (np.empty(0, np.int32),)
        """Numbers in `gene_ids` of the genes of a part, for each different list of genes; empty: the same numbers."""
        self.part_genes: LongArray = np.zeros(len(parts), np.int64)
        """(n_parts,) int64 which of `gene_maps` a part uses."""

    @classmethod
    def open(cls, path: str | Path, *, read: Literal["auto", "mmap", "pread"] = "auto") -> Self:
        """Read the manifest and map every part.

        Args:
            path: the store's folder.
            read: by memory map, by requests, or as size and disk suggest: see scmf.data.reading.

        Raises:
            StoreError: no store there, another version, a damaged manifest, or an array that is missing, cut
                or rearranged. Flipped bytes inside an array are what `scmf-store verify` finds.
        """
        path = Path(path)
        manifest = read_manifest(path)
        allow_files(len(manifest.parts))
        parts = tuple(Part.open(path, record) for record in manifest.parts)
        return cls(path, manifest, parts, reading=choose_reading(read, path, bytes_of_arrays(manifest)))

    def __reduce__(self) -> tuple[Callable[..., CellStore], tuple[Any, ...]]:
        return _reopen, (str(self.path.absolute()), self.reading.mode)

    @property
    def members(self) -> tuple[CellStore, ...]:
        """The stores that this one is made of; itself alone, unless several are read as one."""
        return (self,)

    def __len__(self) -> int:
        return self.manifest.n_cells

    @property
    def contents(self) -> str:
        """How much it holds, for a sentence."""
        return f"{self.n_cells:,} cells"

    @property
    def n_cells(self) -> int:
        """Cells of the store."""
        return self.manifest.n_cells

    @property
    def n_genes(self) -> int:
        """Genes of the store."""
        return len(self.manifest.gene_ids)

    @property
    def gene_ids(self) -> tuple[str, ...]:
        """Gene ids by gene number. Parts written before a gene first appeared have fewer columns."""
        return self.manifest.gene_ids

    @cached_property
    def fingerprint(self) -> str:
        """Changes when a cell, a gene or a label of the store changes."""
        return self.manifest.fingerprint

    def locate(self, cell_ids: npt.ArrayLike) -> tuple[LongArray, LongArray]:
        """(n,) int64 part number and row inside the part of each cell; IndexError outside the store."""
        ids = np.asarray(cell_ids, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            bad = ids[(ids < 0) | (ids >= len(self))][0]
            raise IndexError(f"cell id {bad} is outside 0..{len(self) - 1} of the store {self.path}")
        part_numbers = np.searchsorted(self.part_starts, ids, side="right") - 1
        return part_numbers, ids - self.part_starts[part_numbers]

    def lengths(self, cell_ids: npt.ArrayLike) -> LongArray:
        """(n,) int64 number of stored values of each cell, from indptr alone."""
        from scmf.data.part_table import find_lengths  # numba takes a second to import, and only here is it needed

        return find_lengths(self, np.asarray(cell_ids, dtype=np.int64))

    def fetch(self, cell_ids: npt.ArrayLike) -> CountsBatch:
        """Copy these cells out of the store, in the order given.

        Raises:
            IndexError: an id outside the store.
            StoreError: a damaged array that points outside itself or outside the genes.
        """
        from scmf.data.gather import gather_cells
        from scmf.data.part_table import find_values

        cell_ids = np.asarray(cell_ids, dtype=np.int64)
        lengths, pieces = find_values(self, cell_ids)
        indptr = np.zeros(len(cell_ids) + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        batch = CountsBatch(indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], self.counts_dtype))
        n_genes = np.array([part.n_genes for part in self.parts], np.int64)
        for piece in pieces:
            genes = (self.gene_maps[piece.genes], n_genes[piece.parts])
            spans, out = (*piece.addresses, piece.lengths), (batch.indices, batch.counts)
            bad = gather_cells(piece.like, spans, indptr[:-1][piece.here], genes, out)
            if bad >= 0:
                part, first = self.parts[piece.parts[bad]], indptr[:-1][piece.here][bad]
                gene = batch.indices[first : first + piece.lengths[bad]].max()
                raise damaged(f"a cell names gene {gene:,}, the part has {part.n_genes:,} genes", part.path, "indices")
        return batch

    def obs(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Table of the cells, in the order of their ids; all columns unless some are named.

        Raises:
            StoreError: a column that no part has.
        """
        from scmf.data.obs import concat_obs, read_obs

        wanted = list(self.manifest.obs_columns) if columns is None else columns
        for column in wanted:
            self._check_column(column)
        for part in self.parts:
            part.bring_tables()
        frames = [read_obs(part.path, wanted, n_cells=part.n_cells) for part in self.parts]
        return concat_obs(frames, columns=wanted)

    @property
    def obsm_names(self) -> tuple[str, ...]:
        """Arrays beside obs that every part has."""
        from scmf.data.obsm import common_records

        return tuple(common_records(self.manifest.parts))

    def obsm(self, name: str) -> ObsmArray:
        """An array beside obs, such as coordinates: memory-mapped, its rows read when cell ids ask for them.

        Raises:
            StoreError: no such array, or a damaged file.
        """
        from scmf.data.obsm import open_obsm

        for part in self.parts:
            part.bring_tables()
        return open_obsm(self.path, [part.path for part in self.parts], self.manifest.parts, name)

    def obs_groups(self, column: str) -> CellGroups:
        """Cells grouped by the values of one column of obs, such as the donor.

        Raises:
            StoreError: a column that no part has; the message names those that exist.
        """
        import pandas as pd

        from scmf.data.obs import concat_column, read_obs_column

        self._check_column(column)
        for part in self.parts:
            part.bring_tables()
        # Part by part, and 4 bytes a cell in the end: a column of a hundred million cells is never held as values.
        codes = np.empty(len(self), np.int32)
        uniques = []
        for part, first in zip(self.parts, self.part_starts, strict=False):
            here, found = pd.factorize(read_obs_column(part.path, column, n_cells=part.n_cells), sort=False)
            codes[first : first + part.n_cells] = here
            uniques.append(pd.Series(found))
        numbers, all_found = pd.factorize(concat_column(uniques), sort=False)
        names = [str(name) for name in all_found]
        order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
        rank = np.empty(len(names), np.int32)
        rank[order] = np.arange(len(names), dtype=np.int32)
        ends = np.cumsum([len(found) for found in uniques])
        for part, first, end, found in zip(self.parts, self.part_starts, ends, uniques, strict=False):
            local = np.append(rank[numbers[end - len(found) : end]], np.int32(-1))  # the last serves code -1
            codes[first : first + part.n_cells] = local[codes[first : first + part.n_cells]]
        return CellGroups(codes, tuple(names[i] for i in order))

    def _check_column(self, column: str) -> None:
        known = self.manifest.obs_columns
        if column not in known:
            raise StoreError(
                f"obs has no column {column!r}; it has {', '.join(known) or 'none'}",
                where=str(self.path),
                fix="name one of these columns",
            )


def _number_at(file: Path, place: int) -> int:
    """One int64 of a file."""
    return int(np.fromfile(file, "<i8", count=1, offset=8 * place)[0])


def _reopen(path: str, mode: Literal["mmap", "pread"]) -> CellStore:
    return CellStore.open(path, read=mode)


def bytes_of_arrays(manifest: Manifest) -> int:
    """Bytes of the arrays of a store."""
    names = tuple(f"X/{name}/c/0" for name in ("data", "indices", "indptr"))
    return sum(part.files[name].bytes for part in manifest.parts for name in names if name in part.files)


def damaged(what: str, part: Path, array: str) -> StoreError:
    """Error about one array of a part."""
    return damaged_file(what, part / "X" / array, store=part.parent)
