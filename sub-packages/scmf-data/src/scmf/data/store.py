"""The cell store, read. In: a folder written by `scmf-store convert`. Out: cells by id, memory-mapped.

zarr is not in the hot path: the arrays are plain files. The tables (`obs`) are read through anndata.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from scmf.core.errors import StoreError
from scmf.data.manifest import Manifest, PartRecord, read_manifest
from scmf.data.shard import map_shard

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """One part's CSR arrays, memory-mapped and read-only."""

    path: Path
    n_genes: int
    data: Array
    """(values,) uint16, uint32 or float32 counts, none of them zero."""
    indices: Array
    """(values,) uint16 or uint32 gene numbers, rising inside a cell."""
    indptr: LongArray
    """(n_cells + 1,) int64 first value of each cell."""

    @property
    def n_cells(self) -> int:
        """Cells of the part."""
        return len(self.indptr) - 1

    @classmethod
    def open(cls, store: Path, record: PartRecord) -> Self:
        """Map the part that the record describes; StoreError when a file is not what it says."""
        path = store / record.name
        part = cls(
            path=path,
            n_genes=record.n_genes,
            data=map_shard(path / "X" / "data", record.counts_dtype, record.n_values),
            indices=map_shard(path / "X" / "indices", record.indices_dtype, record.n_values),
            indptr=map_shard(path / "X" / "indptr", np.int64, record.n_cells + 1),
        )
        if part.indptr[0] != 0 or part.indptr[-1] != record.n_values:
            raise damaged(f"cells end at {part.indptr[-1]:,}, the part has {record.n_values:,} values", path, "indptr")
        return part

    def spans(self, rows: LongArray) -> tuple[LongArray, LongArray]:
        """(k,) starts and lengths of these rows' values; StoreError when a damaged indptr points outside."""
        starts = self.indptr[rows]
        lengths = self.indptr[rows + 1] - starts
        bad = (starts < 0) | (lengths < 0) | (starts + lengths > len(self.data))
        if bad.any():
            row = rows[bad.argmax()]
            raise damaged(f"cell {row:,} of the part lies outside its {len(self.data):,} values", self.path, "indptr")
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

    def __init__(self, path: Path, manifest: Manifest, parts: tuple[Part, ...]) -> None:
        self.path = path
        self.manifest = manifest
        self.parts = parts
        self.part_starts: LongArray = np.cumsum([0, *(p.n_cells for p in parts)], dtype=np.int64)
        self.counts_dtype: np.dtype[Any] = np.result_type(np.uint16, *(p.data.dtype for p in parts)).newbyteorder("=")

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read the manifest and map every part.

        Raises:
            StoreError: no store there, another version, a damaged manifest, or an array that is missing, cut
                or rearranged. Flipped bytes inside an array are what `scmf-store verify` finds.
        """
        path = Path(path)
        manifest = read_manifest(path)
        return cls(path, manifest, tuple(Part.open(path, record) for record in manifest.parts))

    def __reduce__(self) -> tuple[Callable[[str], CellStore], tuple[str]]:
        return CellStore.open, (str(self.path.absolute()),)

    def __len__(self) -> int:
        return self.manifest.n_cells

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
        part_numbers, rows = self.locate(cell_ids)
        lengths = np.empty(len(rows), np.int64)
        for number in np.unique(part_numbers):
            here = part_numbers == number
            lengths[here] = self.parts[number].spans(rows[here])[1]
        return lengths

    def fetch(self, cell_ids: npt.ArrayLike) -> CountsBatch:
        """Copy these cells out of the store, in the order given.

        Raises:
            IndexError: an id outside the store.
            StoreError: a damaged array that points outside itself or outside the genes.
        """
        part_numbers, rows = self.locate(cell_ids)
        pieces = [(self.parts[p], part_numbers == p) for p in np.unique(part_numbers)]
        spans = [part.spans(rows[here]) for part, here in pieces]
        indptr = np.zeros(len(rows) + 1, np.int64)
        for (_, here), (_, lengths) in zip(pieces, spans, strict=True):
            indptr[1:][here] = lengths
        np.cumsum(indptr, out=indptr)
        batch = CountsBatch(indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], self.counts_dtype))
        for (part, here), (starts, lengths) in zip(pieces, spans, strict=True):
            _copy_rows(part, starts, lengths, targets=indptr[:-1][here], batch=batch)
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
        frames = [read_obs(part.path, wanted) for part in self.parts]
        return concat_obs(frames, columns=wanted)

    def obs_groups(self, column: str) -> CellGroups:
        """Cells grouped by the values of one column of obs, such as the donor.

        Raises:
            StoreError: a column that no part has; the message names those that exist.
        """
        import pandas as pd

        from scmf.data.obs import concat_column, read_obs_column

        self._check_column(column)
        values = concat_column([read_obs_column(part.path, column) for part in self.parts])
        codes, uniques = pd.factorize(values, sort=False)
        names = [str(name) for name in uniques]
        order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
        rank = np.full(len(names) + 1, -1, np.int32)  # the last entry serves code -1
        rank[order] = np.arange(len(names), dtype=np.int32)
        return CellGroups(rank[codes], tuple(names[i] for i in order))

    def _check_column(self, column: str) -> None:
        known = self.manifest.obs_columns
        if column not in known:
            raise StoreError(
                f"obs has no column {column!r}; it has {', '.join(known) or 'none'}",
                where=str(self.path),
                fix="name one of these columns",
            )


def _copy_rows(part: Part, starts: LongArray, lengths: LongArray, *, targets: LongArray, batch: CountsBatch) -> None:
    from scmf.data.gather import gather_rows  # numba takes a second to import, and only here is it needed

    out = (batch.indices, batch.counts)
    highest = gather_rows(starts, lengths, targets, (part.indices, part.data), out)
    if highest >= part.n_genes:
        raise damaged(f"a cell names gene {highest:,}, the part has {part.n_genes:,} genes", part.path, "indices")


def damaged(what: str, part: Path, array: str) -> StoreError:
    """Error about one array of a part."""
    return StoreError(
        what,
        where=str(part / "X" / array),
        fix=f"scmf-store verify {part.parent}; then restore that file or convert the sources again",
    )
