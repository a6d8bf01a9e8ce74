"""Cells of a store into a part of another. In: a store and cell ids. Out: their counts and obs, in a part filler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from scmf.data.ingest.blocks import RawBlock
from scmf.data.ingest.duplicates import let_go
from scmf.data.ingest.part_filler import PartFiller, Tally
from scmf.data.ingest.table import NodeTable
from scmf.data.part import Part, damaged
from scmf.data.store import CellStore

LongArray = npt.NDArray[np.int64]
NumberArray = npt.NDArray[np.int32]

_MOST_VALUES: Final = 1 << 20
_OBS_ROWS: Final = 1 << 14


def copy_cells(filler: PartFiller, store: CellStore, cells: LongArray, *, numbers: NumberArray) -> Tally:
    """Append cells of a store to a part.

    Args:
        filler: takes them, and the rows of the arrays of obsm that it has.
        store: where they are.
        cells: (k,) their ids, rising.
        numbers: (n_genes of the store,) number of each gene in the new store, -1 to leave it out.

    Returns:
        What happened to their counts; `dropped` are those of genes left out.

    Raises:
        StoreError: a damaged array.
    """
    tally = Tally()
    for some in _by_values(store, cells):
        batch = store.fetch(some)
        block = RawBlock(0, batch.indptr, batch.indices, batch.counts.astype(np.int64))
        if filler.put(block, numbers, tally) is not None:
            raise damaged("a stored count is no count", store.parts[int(store.locate(some)[0][0])].path, "data")
        let_go(store, some)
    for name in filler.obsm.records:
        array = store.obsm(name)
        for start in range(0, len(cells), _OBS_ROWS):
            filler.obsm.add(name, array[cells[start : start + _OBS_ROWS]])
    part_numbers, rows = store.locate(cells)
    for number in np.unique(part_numbers):
        for frame in obs_frames(store.parts[number], rows[part_numbers == number]):
            filler.obs.add(frame)
    return tally


def obs_frames(part: Part, rows: LongArray) -> Iterator[pd.DataFrame]:
    """Rows of a part's obs, rising, some thousands at a time."""
    table = obs_table(part)
    for start in range(0, part.n_cells, _OBS_ROWS):
        a, b = np.searchsorted(rows, [start, start + _OBS_ROWS])
        if b > a:
            first, last = int(rows[a]), int(rows[b - 1])
            yield table.frame(first, last + 1).iloc[rows[a:b] - first]


def obs_table(part: Part) -> NodeTable:
    """A part's obs, unread."""
    group: Any = zarr.open_group(part.path, mode="r")
    return NodeTable(group["obs"])


def _by_values(store: CellStore, cells: LongArray) -> Iterator[LongArray]:
    """The cells in runs of about a million values."""
    ends = np.cumsum(store.lengths(cells))
    start = 0
    while start < len(cells):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _MOST_VALUES, side="right")))
        yield cells[start:stop]
        start = stop
