"""A table (obs or var) of a source, read by slices of rows. In: nodes or columns. Out: pandas frames.

anndata reads whole tables only; a store is written part by part in bounded memory.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[Any]


class Table(ABC):
    """Rows of obs or var."""

    columns: tuple[str, ...]
    """Names of the columns, without the index."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def index(self, start: int = 0, stop: int | None = None) -> Array:
        """(rows,) object array of the rows' names."""

    @abstractmethod
    def column(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """(rows,) values of a column as pandas or NumPy keep them; categories stay categories."""

    def texts(self, name: str) -> Array | None:
        """(rows,) object array of strings, "" where missing; None for a column that is no text."""
        values = pd.Series(self.index() if name == "index" and name not in self.columns else self.column(name))
        if isinstance(values.dtype, pd.CategoricalDtype):
            values = values.astype(object)
        if values.dtype.kind not in "OUS" and not isinstance(values.dtype, pd.StringDtype):
            return None
        missing = values.isna().to_numpy()  # of all at once: asked of each value, it takes longer than all the rest
        return np.array(["" if gone else as_text(v) for v, gone in zip(values, missing, strict=True)], dtype=object)

    def frame(self, start: int, stop: int) -> pd.DataFrame:
        """Rows start..stop with all columns, by names that zarr can keep."""
        columns = {new: self.column(c, start, stop) for c, new in zarr_names(self.columns).items()}
        return pd.DataFrame(columns, index=pd.Index(self.index(start, stop), dtype=object))


def zarr_names(columns: Iterable[str]) -> dict[str, str]:
    """Columns by name, each with the name under which zarr can keep it: a slash becomes `_`, and no two names meet."""
    names = {c: c for c in columns if "/" not in c}
    for column in (c for c in columns if "/" in c):
        plain = column.replace("/", "_")
        free = (plain if not k else f"{plain}_{k + 1}" for k in itertools.count())
        names[column] = next(name for name in free if name not in names.values())
    return {c: names[c] for c in columns}


class ColumnTable(Table):
    """A table whose columns are arrays of their own: HDF5 datasets or NumPy arrays of one axis."""

    def __init__(self, index: Any, columns: Mapping[str, Any]) -> None:
        """Take the array of the rows' names and the columns, each as long."""
        self._index, self._columns = index, dict(columns)
        self.columns = tuple(self._columns)

    def __len__(self) -> int:
        return int(self._index.shape[0])

    def index(self, start: int = 0, stop: int | None = None) -> Array:
        """(rows,) object array of the rows' names."""
        return _texts(self._index[start:stop])

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """(rows,) values of a column; bytes become text."""
        values = self._columns[name][start:stop]
        return values if isinstance(values, pd.Categorical) else as_strings(np.asarray(values))


class FrameTable(Table):
    """A table that is in memory."""

    def __init__(self, frame: pd.DataFrame) -> None:
        """Take a frame whose index is the rows' names."""
        self._frame = frame
        self.columns = tuple(str(c) for c in frame.columns)

    def __len__(self) -> int:
        return len(self._frame)

    def index(self, start: int = 0, stop: int | None = None) -> Array:
        """(rows,) object array of the rows' names."""
        return np.array([str(v) for v in self._frame.index[start:stop]], dtype=object)

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """(rows,) values of a column."""
        return self._frame[name].iloc[start:stop].array


class RowsTable(Table):
    """Some rows of another table, in its order."""

    def __init__(self, table: Table, kept: npt.NDArray[np.bool_]) -> None:
        """Take a table and (rows,) which of its rows remain."""
        self._table, self._kept = table, kept
        self.columns = table.columns

    def __len__(self) -> int:
        return int(self._kept.sum())

    def index(self, start: int = 0, stop: int | None = None) -> Array:
        """(rows,) object array of the rows' names."""
        found: Array = self._table.index()[self._kept][start:stop]
        return found

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """(rows,) values of a column of the remaining rows."""
        return self._table.column(name)[self._kept][start:stop]


class NodeTable(Table):
    """Rows of obs or var, in any of anndata's encodings, in HDF5 or zarr."""

    def __init__(self, node: Any, *, legacy_categories: Any = None) -> None:
        """Take the node; `legacy_categories` is uns, where compound tables kept their categories."""
        self._node = node
        self._uns = legacy_categories
        self._compound = hasattr(node, "shape")
        names = list(node.dtype.names) if self._compound else list(node)
        self._index = names[0] if self._compound else as_text(node.attrs.get("_index", "index"))
        if self._index not in names:
            known = ", ".join(names[:6]) or "no columns"
            raise ValueError(f"the names of its rows should be in {self._index!r}, which is not there; it has {known}")
        order = [] if self._compound else [as_text(c) for c in node.attrs.get("column-order", ())]
        hidden = {self._index, "__categories", "_index"}
        listed = [c for c in order if c in names and c not in hidden]
        self.columns = tuple(listed + [c for c in names if c not in hidden and c not in listed])

    def __len__(self) -> int:
        if self._compound:
            return int(self._node.shape[0])
        node = self._node[self._index]
        if _is_group(node):  # a categorical or nullable index
            node = node["codes" if "codes" in node else "values"]
        return int(node.shape[0])

    def index(self, start: int = 0, stop: int | None = None) -> Array:
        """(rows,) object array of the rows' names."""
        return _texts(self.column(self._index, start, stop))

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """(rows,) values of a column as pandas or NumPy keep them; categories stay categories."""
        return self._read_compound(name, start, stop) if self._compound else self._read(name, start, stop)

    def _read(self, name: str, start: int, stop: int | None) -> Any:
        node = self._node[name]
        if _is_group(node):
            return _read_group(node, start, stop)
        if "categories" in node.attrs:  # anndata 0.7: a reference to __categories/NAME
            categories = as_strings(self._node[node.attrs["categories"]][:])
            return _categorical(node[start:stop], categories, ordered=False)
        return as_strings(node[start:stop])

    def _read_compound(self, name: str, start: int, stop: int | None) -> Any:
        values = self._node[start:stop][name]
        categories: Any = self._uns.get(f"{name}_categories") if self._uns is not None else None
        if hasattr(categories, "shape") and values.dtype.kind in "iu":
            return _categorical(values, as_strings(np.atleast_1d(categories[()])), ordered=False)
        return as_strings(values)


def _read_group(node: Any, start: int, stop: int | None) -> Any:
    encoding = as_text(node.attrs.get("encoding-type", ""))
    if encoding == "categorical":
        categories = as_strings(_dense(node["categories"]))
        return _categorical(node["codes"][start:stop], categories, ordered=bool(node.attrs.get("ordered", False)))
    values, mask = node["values"][start:stop], node["mask"][start:stop]
    if encoding == "nullable-string-array":
        return pd.array(np.where(mask, None, as_strings(values)), dtype=object)
    if encoding == "nullable-boolean":
        return pd.arrays.BooleanArray(values.astype(bool), mask.astype(bool))
    if encoding == "nullable-integer":
        return pd.arrays.IntegerArray(values, mask.astype(bool))
    raise TypeError(f"column {node.name} is encoded as {encoding or 'nothing known'}")


def _dense(node: Any) -> Array:
    return np.asarray(node["values"][:] if _is_group(node) else node[:])


def _categorical(codes: Array, categories: Any, *, ordered: bool) -> pd.Categorical:
    known = pd.Index(categories)
    return pd.Categorical.from_codes(codes.astype(np.int64), categories=known, ordered=ordered)


def as_strings(values: Any) -> Any:
    """Bytes as text; numbers in native byte order, as pandas wants them."""
    if values.dtype.kind in "OST":
        return _texts(values)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _texts(values: Any) -> Array:
    """(n,) object array of texts; a million names take the time that deciding once a name takes, and no calls."""
    texts = [v if type(v) is str else v.decode("utf-8", "replace") if type(v) is bytes else as_text(v) for v in values]
    return np.array(texts, dtype=object)


def _is_group(node: Any) -> bool:
    return not hasattr(node, "shape")


def as_text(value: Any) -> str:
    """Text of a name that may be bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes | np.bytes_) else str(value)
