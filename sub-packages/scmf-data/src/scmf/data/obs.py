"""Tables of a part through anndata. In: obs and var frames, or a part. Out: zarr groups, or frames.

Not in the hot path. Frames of several sources are joined column by column: a column that one of them lacks
is missing there, and columns of different types meet in one that holds them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from anndata.io import read_elem, write_elem
from pandas.api.types import is_bool_dtype, is_numeric_dtype, union_categoricals

from scmf.core.errors import StoreError
from scmf.data.shard import damaged_file

T = TypeVar("T", pd.DataFrame, pd.Series)


def write_tables(part: Path, *, obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Write obs and var into a part whose root group exists."""
    write_table(part, "obs", _writable(obs))
    write_table(part, "var", var)


def write_table(part: Path, name: str, table: pd.DataFrame) -> None:
    """Write one table, which anndata can write as it is, into a part whose root group exists."""
    group = zarr.open_group(part, mode="r+")
    with anndata.settings.override(auto_shard_zarr_v3=False):  # said aloud: anndata is about to change its default
        write_elem(group, name, table)


def read_obs(part: Path, columns: Sequence[str], *, n_cells: int) -> pd.DataFrame:
    """Those of the columns that the part has, indexed by cell name.

    Raises:
        StoreError: the table is damaged.
    """
    with _reading(part):
        group = _obs_group(part)
        names = pd.Index(read_elem(group[_index_name(group)]), dtype=object)
        table = pd.DataFrame({c: read_elem(group[c]) for c in columns if c in group}, index=names)
        return _checked(table, n_cells)


def read_obs_column(part: Path, column: str, *, n_cells: int) -> pd.Series:
    """One column without the cells' names; all missing where the part does not have it.

    Raises:
        StoreError: the table is damaged.
    """
    with _reading(part):
        group = _obs_group(part)
        if column not in group:
            return _missing(n_cells)
        return _checked(pd.Series(read_elem(group[column])), n_cells)


def _checked(table: T, n_cells: int) -> T:
    if len(table) != n_cells:
        raise ValueError(f"it has {len(table):,} rows, the part has {n_cells:,} cells")
    return table


@contextmanager
def _reading(part: Path) -> Iterator[None]:
    """Turn whatever zarr, its codecs, anndata and pandas raise over damaged bytes into an error with a way out."""
    try:
        yield
    except (StoreError, PermissionError):
        raise
    except Exception as error:
        # They raise ValueError, RuntimeError, KeyError, UnicodeDecodeError, MemoryError and errors of their own.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise damaged_file(f"obs cannot be read: {reason}", part / "obs", store=part.parent) from error


def concat_obs(frames: Sequence[pd.DataFrame], *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Frames one under the other; the columns named, or else all in order of first appearance."""
    if columns is None:
        columns = list(dict.fromkeys(c for frame in frames for c in frame.columns))
    names = [np.asarray(frame.index, dtype=object) for frame in frames]
    index = pd.Index(np.concatenate([np.empty(0, object), *names]), dtype=object)
    merged = {c: concat_column([_column(frame, c) for frame in frames]).array for c in columns}
    return pd.DataFrame(merged, index=index, columns=pd.Index(list(columns), dtype=object))


def concat_column(pieces: Sequence[pd.Series]) -> pd.Series:
    """One column of several frames. All-missing pieces take no part in the choice of the type.

    Equal types stay as they are; numbers of different types become float64, or nullable boolean where all
    are boolean; everything else becomes a categorical of strings.
    """
    if len(pieces) == 1:
        return pieces[0].reset_index(drop=True)
    known = [p for p in pieces if not _is_missing(p)]
    whole = len(known) == len(pieces)
    if whole and len({p.dtype for p in known}) == 1 and not isinstance(known[0].dtype, pd.CategoricalDtype):
        return pd.concat(list(pieces), ignore_index=True)
    if known and all(is_numeric_dtype(p.dtype) for p in known):
        dtype = "boolean" if all(is_bool_dtype(p.dtype) for p in known) else "float64"
        parts = [_missing(len(p), dtype) if _is_missing(p) else p.astype(dtype) for p in pieces]
        return pd.concat(parts, ignore_index=True)
    return pd.Series(union_categoricals([_as_categories(p) for p in pieces], ignore_order=True))


def _writable(obs: pd.DataFrame) -> pd.DataFrame:
    """The table with every column of text either all strings or categorical: a bare None would become "None"."""
    columns = {c: obs[c] for c in obs.columns}
    for name, column in columns.items():
        text = column.dtype == object or isinstance(column.dtype, pd.StringDtype)
        if text and not all(isinstance(value, str) for value in column):
            columns[name] = pd.Series(_as_categories(column), index=obs.index)
    return pd.DataFrame(columns, index=pd.Index(obs.index, dtype=object))


def numbers_of(column: pd.Series) -> npt.NDArray[np.float64]:
    """(n_cells,) float64 values of a column, NaN where there is no number: text that reads as a number is one."""
    if not is_numeric_dtype(column.dtype):
        column = pd.to_numeric(column.astype(object), errors="coerce")
    numbers: npt.NDArray[np.float64] = column.to_numpy(np.float64, na_value=np.nan)
    return numbers


def _obs_group(part: Path) -> zarr.Group:
    group = zarr.open_group(part, mode="r")["obs"]
    if not isinstance(group, zarr.Group):
        raise damaged_file("obs is not a table", part / "obs", store=part.parent)
    return group


def _index_name(group: zarr.Group) -> str:
    return str(group.attrs["_index"])


def _column(frame: pd.DataFrame, column: str) -> pd.Series:
    return frame[column] if column in frame.columns else _missing(len(frame))


def _missing(n: int, dtype: str | None = None) -> pd.Series:
    if dtype is None:
        return pd.Series(pd.Categorical([None] * n, categories=pd.Index([], dtype=object)))
    return pd.Series([pd.NA if dtype == "boolean" else np.nan] * n, dtype=dtype)


def _is_missing(piece: pd.Series) -> bool:
    return isinstance(piece.dtype, pd.CategoricalDtype) and not len(piece.cat.categories)


def _as_categories(piece: pd.Series) -> pd.Categorical:
    """Categorical whose categories are strings."""
    if not isinstance(piece.dtype, pd.CategoricalDtype):
        piece = piece.astype(object).where(piece.notna(), None).astype("category")
    values = pd.Categorical(piece.array)
    return values.rename_categories(pd.Index([str(c) for c in values.categories], dtype=object))
