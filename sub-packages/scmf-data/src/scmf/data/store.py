"""The cell store, read. In: a folder written by `scmf-store convert`. Out: cells by id, memory-mapped.

zarr is not in the hot path: the arrays are plain files. The tables (`obs`) are read through anndata.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from scmf.core.errors import StoreError
from scmf.core.near_word import nearest
from scmf.data.manifest import Manifest, read_manifest
from scmf.data.part import Part, as_ids, damaged, locate_cells
from scmf.data.reading import MAPPED, Reading, allow_files, choose_reading

if TYPE_CHECKING:
    import pandas as pd

    from scmf.data.obsm import ObsmArray
    from scmf.data.part_table import PartTable

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


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
        self._table: PartTable | None = None
        self._making = Lock()

    @classmethod
    def open(cls, path: str | Path, *, read: Literal["auto", "mmap", "pread"] = "auto") -> Self:
        """Read the manifest and map every part.

        Args:
            path: the store's folder.
            read: by memory map, by requests, or as size and disk suggest: see scmf.data.reading.

        Raises:
            StoreError: no store there, another version, a damaged manifest, or an array that is missing, cut or
                rearranged. Flipped bits inside an indptr are found when it is first used, those inside counts and
                gene numbers by `scmf-store verify`.
        """
        path = Path(path)
        manifest = read_manifest(path)
        allow_files(len(manifest.parts))
        parts = tuple(Part.open(path, record) for record in manifest.parts)
        return cls(path, manifest, parts, reading=choose_reading(read, path, bytes_of_arrays(manifest)))

    def prove_boundaries(self) -> None:
        """Compare the indptr of every part with the manifest now, rather than when a cell of it is first read.

        Those of a store that lies elsewhere are compared when they arrive.

        Raises:
            StoreError: a flipped bit.
        """
        for part in self.parts:
            if part.is_mapped:
                part.prove_boundaries()

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

    @property
    def table(self) -> PartTable:
        """Where the values of cells lie: made once, and kept as long as the store."""
        if self._table is not None:  # without the lock: a process that is forked while it is held would never get it
            return self._table
        with self._making:
            if self._table is None:
                self._table = self._make_table()
            return self._table

    def _make_table(self) -> PartTable:
        from scmf.data.part_table import PartTable  # numba takes a second to import, and not everybody reads values
        from scmf.data.pread import PreadTable

        kind = PreadTable if self.reading.mode == "pread" else PartTable
        return kind(self.parts, self.part_genes)

    def locate(self, cell_ids: npt.ArrayLike) -> tuple[LongArray, LongArray]:
        """(n,) int64 part number and row inside the part of each cell; IndexError outside the store."""
        return locate_cells(self.part_starts, cell_ids)

    def lengths(self, cell_ids: npt.ArrayLike) -> LongArray:
        """(n,) int64 number of stored values of each cell, from indptr alone."""
        return self.table.look_up(np.atleast_1d(as_ids(cell_ids))).lengths

    def fetch(self, cell_ids: npt.ArrayLike) -> CountsBatch:
        """Copy these cells out of the store, in the order given.

        Raises:
            IndexError: an id outside the store.
            TypeError: a mask or fractions in place of ids.
            StoreError: a damaged array that points outside itself or outside the genes.
        """
        from scmf.data.gather import gather_cells

        cell_ids = np.atleast_1d(as_ids(cell_ids))
        lengths, pieces = self.table.find(cell_ids)
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
            self.check_column(column)
        for part in self.parts:
            part.bring_obs()
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

        self.check_column(column)
        for part in self.parts:
            part.bring_obs(column)
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

    def check_column(self, column: str) -> None:
        """StoreError naming the columns that there are, unless this is one of them."""
        known = self.manifest.obs_columns
        if column not in known:
            near = nearest(column, known)
            raise StoreError(
                f"obs has no column {column!r}; it has {', '.join(known) or 'none'}",
                where=str(self.path),
                fix=f"did you mean {near}?" if near else "name one of these columns",
            )


def _reopen(path: str, mode: Literal["mmap", "pread"]) -> CellStore:
    return CellStore.open(path, read=mode)


def bytes_of_arrays(manifest: Manifest) -> int:
    """Bytes of the arrays of a store."""
    names = tuple(f"X/{name}/c/0" for name in ("data", "indices", "indptr"))
    return sum(part.files[name].bytes for part in manifest.parts for name in names if name in part.files)
