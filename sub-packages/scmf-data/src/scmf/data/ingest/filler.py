"""Raw blocks into parts. In: raw CSR blocks of one source after another. Out: parts of a store being written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scmf.data.ingest import kernels
from scmf.data.ingest.blocks import RawBlock
from scmf.data.manifest import PartRecord
from scmf.data.obs import concat_obs
from scmf.data.store_writer import PartWriter, StoreWriter

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


@dataclass(frozen=True, slots=True)
class Fault:
    """The first value of a block that is no raw count."""

    kind: int
    position: int
    """In the block's values."""


class PartFiller:
    """Cuts a stream of cells into parts and brings every cell to its canonical form."""

    def __init__(self, writer: StoreWriter, *, var: pd.DataFrame, cells_per_part: int) -> None:
        self.records: list[PartRecord] = []
        self.obs_columns: dict[str, None] = {}
        self._writer = writer
        self._var = var
        self._cells_per_part = cells_per_part
        self._part: PartWriter | None = None
        self._obs: list[pd.DataFrame] = []
        self._indices: Array = np.empty(0, np.uint16)
        self._counts: Array = np.empty(0, np.uint16)

    @property
    def room(self) -> int:
        """Cells that still fit into the part."""
        return self._cells_per_part - (self._part.n_cells if self._part else 0)

    def put(self, block: RawBlock, gene_numbers: Array, tally: Tally) -> Fault | None:
        """Append a block that fits into the part; the first value that is no count is returned instead."""
        part = self._part = self._part or self._writer.new_part(n_genes=len(self._var))
        lengths = np.empty(block.n_cells, np.int64)
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
        tally.values += n
        tally.rounded += int(state[kernels.ROUNDED])
        tally.kept += int(state[kernels.KEPT])
        tally.dropped += int(state[kernels.DROPPED])
        tally.empty_cells += int((lengths == 0).sum())
        return None

    def add_obs(self, frame: pd.DataFrame) -> None:
        """Add the table rows of cells that have been put."""
        self._obs.append(frame)
        self.obs_columns.update(dict.fromkeys(str(c) for c in frame.columns))

    def close_part(self) -> None:
        """Finish the part, if one is open."""
        if self._part is not None:
            self.records.append(self._part.close(obs=concat_obs(self._obs), var=self._var))
        self._part, self._obs = None, []

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
