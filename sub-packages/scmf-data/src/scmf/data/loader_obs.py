"""Columns of obs in batches. In: a store and a column. Out: a number a cell, and the names that numbers stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from scmf.data.obs import concat_column, read_obs_column
from scmf.data.store import CellStore

Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ObsColumn:
    """One column of all cells."""

    values: npt.NDArray[np.int32] | Numbers
    """(n_cells,): what the column says, or the number of its name, -1 where it is missing."""
    names: tuple[str, ...]
    """Sorted names by their number; none for a column of numbers."""

    def of(self, cell_ids: npt.NDArray[np.int64]) -> Numbers:
        """(k,) float32 for measurements, int64 for whole numbers and names."""
        chosen = self.values[cell_ids]
        return chosen.astype(np.float32) if chosen.dtype == np.float32 else chosen.astype(np.int64)


def read_column(store: CellStore, column: str) -> ObsColumn:
    """Read a column of obs once, for batches.

    Args:
        store: the cells.
        column: whole numbers stay what they are, other numbers become float32, everything else is numbered by name.

    Raises:
        StoreError: obs has no such column, or is damaged.
    """
    store.check_column(column)
    for part in store.parts:
        part.bring_obs(column)
    whole = concat_column([read_obs_column(part.path, column, n_cells=part.n_cells) for part in store.parts])
    if is_bool_dtype(whole.dtype) or not is_numeric_dtype(whole.dtype):
        return ObsColumn(*store.obs_groups(column))
    if is_integer_dtype(whole.dtype) and not whole.hasnans:
        return ObsColumn(whole.to_numpy(np.int64), ())
    return ObsColumn(whole.to_numpy(np.float32, na_value=np.nan), ())
