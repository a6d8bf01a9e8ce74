"""Raw blocks into one part. In: raw CSR blocks of some sources. Out: the part, and what its cells are like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scmf.data.cell_hash import KeyArray
from scmf.data.ingest import kernels
from scmf.data.ingest.blocks import RawBlock
from scmf.data.ingest.statistics import CellHistograms, sum_rows
from scmf.data.manifest import ObsmRecord, PartRecord
from scmf.data.medians import BINS, count_values
from scmf.data.obs_writer import ObsSpool
from scmf.data.obsm import ObsmWriter
from scmf.data.store_writer import PartWriter

Array = npt.NDArray[Any]


@dataclass(slots=True)
class Tally:
    """What happened to the counts of one source."""

    values: int = 0
    rounded: int = 0
    kept: int = 0
    """Sum of the counts stored."""
    dropped: int = 0
    """Sum of the counts of columns without an id."""
    empty_cells: int = 0

    def add(self, other: Tally) -> None:
        """Add the numbers of other cells of the same source."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Fault:
    """The first value of a block that is no raw count."""

    kind: int
    position: int
    """In the block's values."""


class PartFiller:
    """Brings every cell to its canonical form and appends it to one part."""

    def __init__(
        self,
        folder: Path,
        *,
        var: pd.DataFrame,
        keys: KeyArray,
        medians: bool = False,
        obsm: Mapping[str, ObsmRecord] | None = None,
    ) -> None:
        """Start the part.

        Args:
            folder: the part's folder, which is made. What waits on disk meanwhile lies beside it.
            var: one row a gene, indexed by gene id.
            keys: (n_genes,) from `gene_keys`.
            medians: histograms of each gene's scaled counts are wanted; 6 kB of memory a gene.
            obsm: arrays beside obs that every cell has.
        """
        self.histograms = CellHistograms(len(var))
        self.gene_histogram = np.zeros((len(var), BINS), np.uint32) if medians else None
        self.obs = ObsSpool(folder.with_name(f"{folder.name}.obs"))
        self._part = PartWriter(folder, n_genes=len(var))
        self.obsm = ObsmWriter(folder, obsm or {})
        self._var, self._keys = var, keys
        self._hashes: list[KeyArray] = []
        self._indices: Array = np.empty(0, np.uint16)
        self._counts: Array = np.empty(0, np.uint16)

    @property
    def hashes(self) -> KeyArray:
        """(cells,) uint64 hash of each cell so far; see `sum_rows`."""
        return np.concatenate([np.empty(0, np.uint64), *self._hashes])

    def put(self, block: RawBlock, gene_numbers: Array, tally: Tally) -> Fault | None:
        """Append a block of cells; the first value that is no count is returned instead."""
        part, lengths = self._part, np.empty(block.n_cells, np.int64)
        state = self._canonical(part, block, gene_numbers, lengths)
        if state[kernels.MAX_COUNT] > np.iinfo(np.uint16).max and part.counts_dtype.itemsize == 2 and not state[0]:
            part.widen(np.uint32)
            state = self._canonical(part, block, gene_numbers, lengths)
        if state[kernels.FAULT]:
            return Fault(int(state[kernels.FAULT]), int(state[kernels.POSITION]))
        if state[kernels.MAX_COUNT] > kernels.HIGHEST:  # repeated genes that add up too high
            return Fault(kernels.TOO_LARGE, 0)
        n = int(state[kernels.WRITTEN])
        part.append(lengths=lengths, indices=self._indices[:n], counts=self._counts[:n])
        self._describe(lengths, n)
        tally.values += n
        tally.rounded += int(state[kernels.ROUNDED])
        tally.kept += int(state[kernels.KEPT])
        tally.dropped += int(state[kernels.DROPPED])
        tally.empty_cells += int((lengths == 0).sum())
        return None

    def close(self) -> PartRecord:
        """Finish the part, whose obs must have a row for every cell."""
        self.obsm.close(self._part.n_cells)
        return self._part.close(obs=self.obs, var=self._var).replace(obsm=self.obsm.records)

    def abandon(self) -> None:
        """Let go of the files of a part that will not be finished."""
        self._part.abandon()
        self.obsm.abandon()

    def _describe(self, lengths: Array, n: int) -> None:
        indices, counts = self._indices[:n], self._counts[:n]
        totals, hashes = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.uint64)
        sum_rows(lengths, (indices, counts), self._keys, (totals, hashes))
        self.histograms.add(lengths, totals)
        self._hashes.append(hashes)
        if self.gene_histogram is not None:
            count_values((indices, counts), (np.cumsum(lengths) - lengths, lengths), self.gene_histogram)

    def _canonical(self, part: PartWriter, block: RawBlock, gene_numbers: Array, lengths: Array) -> Array:
        n = len(block.values)
        if len(self._counts) < n or self._counts.dtype != part.counts_dtype:
            self._counts = np.empty(n, part.counts_dtype)
        if len(self._indices) < n or self._indices.dtype != part.indices_dtype:
            self._indices = np.empty(n, part.indices_dtype)
        state = np.zeros(kernels.STATE_SLOTS, np.int64)
        raw, out = (block.columns, block.values), (self._indices, self._counts)
        kernels.canonical_rows(block.indptr, raw, gene_numbers, out, lengths, state)
        return state
