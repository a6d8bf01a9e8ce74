"""obs of a part in bounded memory. In: frames of consecutive cells. Out: the part's obs, as anndata would write it.

The type of a column is known only after its last row: a missing text, or a source that holds numbers where another
holds words, changes it. So frames wait on disk, and columns are then written one by one, a few rows at a time.
Memory: the rows of one frame, and the categories of one column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import zarr
from anndata.io import write_elem
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from zarr.dtype import VariableLengthUTF8

from scmf.core.errors import InputError

Array = npt.NDArray[Any]

_FIXED_ROWS: Final = 1 << 18
"""Rows of a zarr chunk of numbers or codes."""
_TEXT_ROWS: Final = 1 << 16
"""Rows of a zarr chunk of text: some megabytes."""
_MOST_CATEGORIES: Final = 1 << 16
"""Text with missing values becomes categories up to this many different values, and nullable text above."""
_INDEX: Final = "_index"


@dataclass(slots=True)
class _Column:
    """What is known of a column: the type of its piece in each frame."""

    types: dict[int, Any] = field(default_factory=dict)
    """Frame number: pandas dtype, `object` for text."""
    missing_text: bool = False

    def of(self, frame: int) -> Any:
        """Type in a frame; None where the frame does not have the column."""
        return self.types.get(frame)


class ObsSpool:
    """Frames of one part's cells, in order, on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lengths: list[int] = []
        self._columns: dict[str, _Column] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of all frames in order of first appearance."""
        return tuple(self._columns)

    def add(self, frame: pd.DataFrame) -> None:
        """Append rows, indexed by cell name.

        Raises:
            InputError: a column of a type that obs cannot hold, such as dates.
        """
        number = len(self._lengths)
        arrays = {_INDEX: pa.array([str(name) for name in frame.index], pa.string())}
        for k, name in enumerate(map(str, frame.columns)):
            column = self._columns.setdefault(name, _Column())
            series = frame.iloc[:, k]
            values = series.to_numpy() if isinstance(series.dtype, np.dtype) else series.array
            arrays[f"c{list(self._columns).index(name)}"] = _pack(values, name)
            column.types[number] = _shared(_type_of(values), column)
            column.missing_text |= column.types[number] == np.dtype(object) and bool(pd.isna(values).any())
        self._folder.mkdir(parents=True, exist_ok=True)
        table = pa.table(arrays)
        with pa.OSFile(str(self._path(number)), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        self._lengths.append(len(frame))

    def write(self, group: zarr.Group) -> None:
        """Write the `obs` of a part's root group, and remove the frames."""
        obs = group.create_group("obs")
        obs.attrs.update(
            {
                "_index": _INDEX,
                "column-order": list(self.columns),
                "encoding-type": "dataframe",
                "encoding-version": "0.2.0",
            }
        )
        _write_text(obs, _INDEX, len(self), self._stored(_INDEX))
        for k, (name, column) in enumerate(self._columns.items()):
            self._write_column(obs, name, f"c{k}", column)
        for number in range(len(self._lengths)):
            self._path(number).unlink()
        if self._lengths:
            self._folder.rmdir()

    def __len__(self) -> int:
        return sum(self._lengths)

    def _path(self, number: int) -> Path:
        return self._folder / f"rows-{number}.arrow"

    def _stored(self, key: str) -> Iterator[Array]:
        """Pieces of a column of which every frame has a text, as objects."""
        for number in range(len(self._lengths)):
            yield self._read(number, key).to_numpy(zero_copy_only=False)

    def _read(self, number: int, key: str) -> pa.ChunkedArray:
        with pa.memory_map(str(self._path(number))) as file:
            return pa.ipc.open_file(file).read_all().column(key)

    def _pieces(self, column: _Column, key: str) -> Iterator[Any]:
        """Pandas arrays of the column, one a frame, with the frame's own type; None where it is absent."""
        for number in range(len(self._lengths)):
            dtype = column.of(number)
            yield None if dtype is None else _unpack(self._read(number, key), dtype)

    def _write_column(self, obs: zarr.Group, name: str, key: str, column: _Column) -> None:
        n = len(self)

        def pieces() -> Iterator[Any]:
            return self._pieces(column, key)

        absent = len(column.types) < len(self._lengths)
        target = _target(list(column.types.values()), absent=absent, missing_text=column.missing_text)
        if target == np.dtype(object):
            _write_text(obs, name, n, pieces())
        elif target is not None and not isinstance(target, pd.CategoricalDtype):
            _write_numbers(obs, name, self._numbers(pieces(), target), n=n, dtype=target)
        else:
            dtype = target if target is not None else self._categories(column, pieces())
            if dtype is None:
                _write_nullable_text(obs, name, n, list_of=lambda: self._filled(pieces()))
            else:
                _write_codes(obs, name, self._codes(pieces(), dtype), n=n, dtype=dtype)

    def _filled(self, pieces: Iterator[Any]) -> Iterator[Array]:
        for length, piece in zip(self._lengths, pieces, strict=True):
            yield np.full(length, None, object) if piece is None else _texts(piece)

    def _numbers(self, pieces: Iterator[Any], dtype: Any) -> Iterator[Any]:
        for length, piece in zip(self._lengths, pieces, strict=True):
            absent = pd.array([pd.NA] * length, dtype="boolean") if str(dtype) == "boolean" else np.full(length, np.nan)
            values: Any = absent if piece is None or _is_missing(piece.dtype) else piece
            if dtype == np.float64 and getattr(values, "_hasna", False):
                yield values.to_numpy(np.float64, na_value=np.nan)
            else:
                yield pd.Series(values).astype(dtype).array

    def _codes(self, pieces: Iterator[Any], dtype: pd.CategoricalDtype) -> Iterator[Array]:
        for length, piece in zip(self._lengths, pieces, strict=True):
            if piece is None:
                yield np.full(length, -1)
            elif isinstance(piece.dtype, pd.CategoricalDtype):
                known = piece.dtype if piece.dtype == dtype else None
                categories = dtype.categories if known else pd.Index(_strings(piece.categories), dtype=object)
                places = np.append(dtype.categories.get_indexer(categories), -1)
                yield places[piece.codes]
            else:
                yield dtype.categories.get_indexer(pd.Index(_texts(piece), dtype=object))

    def _categories(self, column: _Column, pieces: Iterator[Any]) -> pd.CategoricalDtype | None:
        """Strings of all pieces: categories first, in their order, then other values, sorted; None for too many."""
        found: dict[str, None] = {}
        for dtype in column.types.values():
            if isinstance(dtype, pd.CategoricalDtype):
                found.update(dict.fromkeys(_strings(dtype.categories)))
        others: set[str] = set()
        for piece in pieces:
            if piece is not None and not isinstance(piece.dtype, pd.CategoricalDtype):
                others.update(t for t in _texts(piece) if t is not None)
            if len(others) > _MOST_CATEGORIES:
                return None
        found.update(dict.fromkeys(sorted(others)))
        return pd.CategoricalDtype(pd.Index(list(found), dtype=object))


def _type_of(values: Any) -> Any:
    dtype = values.dtype
    if isinstance(dtype, pd.StringDtype) or dtype.kind in "OUS":
        return dtype if isinstance(dtype, pd.CategoricalDtype) else np.dtype(object)
    return dtype


def _shared(dtype: Any, column: _Column) -> Any:
    """The equal type of an earlier frame, where there is one: the categories are then kept once."""
    return next((known for known in reversed(column.types.values()) if known == dtype), dtype)


def _pack(values: Any, name: str) -> pa.Array:
    """Arrow form of one piece: codes of categories, text as text, numbers as they are."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return pa.array(values.codes.astype(np.int32))
    if _type_of(values) == np.dtype(object):
        return pa.array(_texts(values), pa.string())
    if values.dtype.kind in "biuf":
        return pa.array(values)
    raise InputError(
        f"obs column {name} holds {values.dtype}, which a store cannot keep",
        where=f"obs: {name}",
        fix=f"write that column as text: adata.obs[{name!r}] = adata.obs[{name!r}].astype(str)",
    )


def _unpack(stored: pa.ChunkedArray, dtype: Any) -> Any:
    if isinstance(dtype, pd.CategoricalDtype):
        return pd.Categorical.from_codes(stored.to_numpy(), dtype=dtype)
    if isinstance(dtype, np.dtype):
        return stored.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    return dtype.__from_arrow__(stored)


def _is_missing(dtype: Any) -> bool:
    return isinstance(dtype, pd.CategoricalDtype) and not len(dtype.categories)


def _target(types: Sequence[Any], *, absent: bool, missing_text: bool) -> Any:
    """Type of the whole column, as `scmf.data.obs.concat_column` has it; None for categories still to be gathered."""
    known = list(dict.fromkeys(t for t in types if not _is_missing(t)))
    whole = not absent and not any(_is_missing(t) for t in types)
    if not known and not absent:
        return types[0]
    if whole and len(known) == 1:
        return known[0] if known[0] != np.dtype(object) or not missing_text else None
    if known and all(t != np.dtype(object) and is_numeric_dtype(t) for t in known):
        return pd.BooleanDtype() if all(is_bool_dtype(t) for t in known) else np.dtype(np.float64)
    return None


def _texts(values: Any) -> Array:
    """Object array of strings, None where missing."""
    return np.array([None if gone else str(v) for v, gone in zip(values, pd.isna(values), strict=True)], dtype=object)


def _strings(categories: pd.Index) -> list[str]:
    return [str(c) for c in categories]


def _batches(pieces: Iterator[Any], rows: int) -> Iterator[tuple[int, Array]]:
    """First row and values of batches of so many rows: a zarr chunk is written once, and whole."""
    held: list[Array] = []
    n_held = first = 0
    for piece in pieces:
        held.append(np.asarray(piece))
        n_held += len(piece)
        while n_held >= rows:
            values = np.concatenate(held)
            yield first, values[:rows]
            first, held, n_held = first + rows, [values[rows:]], n_held - rows
    if n_held:
        yield first, np.concatenate(held)


def _fill(group: zarr.Group, name: str, pieces: Iterator[Any], *, n: int, dtype: Any, rows: int) -> None:
    encoding = "string-array" if isinstance(dtype, VariableLengthUTF8) else "array"
    array = group.create_array(name, shape=(n,), chunks=(max(1, min(n, rows)),), dtype=dtype)
    array.attrs.update({"encoding-type": encoding, "encoding-version": "0.2.0"})
    for first, values in _batches(pieces, rows):
        array[first : first + len(values)] = values


def _write_text(group: zarr.Group, name: str, n: int, pieces: Iterator[Any]) -> None:
    _fill(group, name, pieces, n=n, dtype=VariableLengthUTF8(), rows=_TEXT_ROWS)


def _write_numbers(group: zarr.Group, name: str, pieces: Iterator[Any], *, n: int, dtype: Any) -> None:
    if isinstance(dtype, np.dtype):
        _fill(group, name, pieces, n=n, dtype=dtype.newbyteorder("="), rows=_FIXED_ROWS)
        return
    kind = "nullable-boolean" if is_bool_dtype(dtype) else "nullable-integer"
    values, masks = [], []
    for piece in pieces:
        masks.append(np.asarray(piece.isna()))
        values.append(piece.to_numpy(dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0)))
    inner = _encoded_group(group, name, kind, "0.1.0")
    _fill(inner, "values", iter(values), n=n, dtype=dtype.numpy_dtype, rows=_FIXED_ROWS)
    _fill(inner, "mask", iter(masks), n=n, dtype=np.dtype(bool), rows=_FIXED_ROWS)


def _write_nullable_text(group: zarr.Group, name: str, n: int, *, list_of: Any) -> None:
    inner = _encoded_group(group, name, "nullable-string-array", "0.1.0")
    _write_text(inner, "values", n, (np.where(pd.isna(p), "", p).astype(object) for p in list_of()))
    _fill(inner, "mask", (np.asarray(pd.isna(p)) for p in list_of()), n=n, dtype=np.dtype(bool), rows=_FIXED_ROWS)


def _write_codes(group: zarr.Group, name: str, pieces: Iterator[Array], *, n: int, dtype: pd.CategoricalDtype) -> None:
    inner = _encoded_group(group, name, "categorical", "0.2.0", ordered=bool(dtype.ordered))
    codes = pd.Categorical.from_codes([], dtype=dtype).codes.dtype
    _fill(inner, "codes", (p.astype(codes) for p in pieces), n=n, dtype=codes, rows=_FIXED_ROWS)
    with anndata.settings.override(auto_shard_zarr_v3=False):
        write_elem(inner, "categories", np.asarray(dtype.categories))


def _encoded_group(group: zarr.Group, name: str, encoding: str, version: str, **attributes: bool) -> zarr.Group:
    inner = group.create_group(name)
    inner.attrs.update({"encoding-type": encoding, "encoding-version": version, **attributes})
    return inner
