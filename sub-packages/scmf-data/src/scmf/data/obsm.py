"""Arrays beside obs (coordinates, embeddings) in a store. In: rows of cells. Out: files that zarr reads, and rows.

Each part has one array a name, `obsm/NAME`: a zarr array of cells x width with a single shard, as X has (see
scmf.data.shard), so that `anndata.read_zarr` reads it and a memory map of the same file does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.core.errors import StoreError
from scmf.data.manifest import ObsmRecord, PartRecord
from scmf.data.part import as_ids
from scmf.data.shard import ShardWriter, array_document, inner_chunk, map_rows, write_document

Array = npt.NDArray[Any]

_ENCODING: Final = {"encoding-type": "array", "encoding-version": "0.2.0"}


def record_of(width: int, dtype: np.dtype[Any]) -> ObsmRecord:
    """How an array of a source is kept: float32 where that holds every value exactly, else float64."""
    exact = dtype.itemsize <= (4 if dtype.kind == "f" else 2)
    return ObsmRecord(width=width, dtype="float32" if exact else "float64")


def joint_record(records: Sequence[ObsmRecord]) -> ObsmRecord | None:
    """How arrays of several sources are kept as one; None when their widths differ."""
    if len({r.width for r in records}) != 1:
        return None
    wide = any(r.dtype == "float64" for r in records)
    return ObsmRecord(width=records[0].width, dtype="float64" if wide else "float32")


class ObsmWriter:
    """The arrays of one part, row block by row block."""

    def __init__(self, part: Path, records: Mapping[str, ObsmRecord]) -> None:
        self.records = dict(records)
        self._folder = part / "obsm"
        self._writers = {name: ShardWriter(self._folder / name, r.dtype, row=r.width) for name, r in records.items()}

    def add(self, name: str, rows: Array) -> None:
        """Append (cells, width) rows of one array."""
        self._writers[name].append(np.asarray(rows))

    def close(self, n_cells: int) -> None:
        """Finish the arrays; every one must have a row for every cell."""
        for name, writer in self._writers.items():
            if writer.n != n_cells:
                raise ValueError(f"obsm {name} has {writer.n} rows for {n_cells} cells")
            writer.close()
            write_document(self._folder / name, _document(n_cells, self.records[name]))

    def abandon(self) -> None:
        """Close the files of a part that will not be finished."""
        for writer in self._writers.values():
            writer.abandon()


@dataclass(frozen=True, slots=True)
class ObsmArray:
    """One array over all cells of a store, memory-mapped; only rows that are asked for are read."""

    pieces: tuple[Array, ...]
    """(cells of the part, width) map of each part."""
    starts: npt.NDArray[np.int64]
    """(parts + 1,) first cell of each part."""
    dtype: np.dtype[Any]
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and numbers a cell."""
        return int(self.starts[-1]), self.width

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, cell_ids: Any) -> Array:
        """(k, width) rows of these cells, copied; a slice, an integer or an array of ids.

        Raises:
            IndexError: an id outside the store.
            TypeError: a mask or fractions in place of ids.
        """
        if isinstance(cell_ids, slice):
            cell_ids = np.arange(*cell_ids.indices(len(self)))
        ids = as_ids(cell_ids)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise IndexError(f"cell id {ids.min() if ids.min() < 0 else ids.max()} is outside 0..{len(self) - 1}")
        part_numbers = np.searchsorted(self.starts, ids, side="right") - 1
        rows = np.empty((*ids.shape, self.width), self.dtype)
        for number in np.unique(part_numbers):
            here = part_numbers == number
            rows[here] = self.pieces[number][ids[here] - self.starts[number]]
        return rows

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        del copy
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)


def common_records(parts: Sequence[PartRecord]) -> dict[str, ObsmRecord]:
    """Arrays that every part has, by name, with the type that holds all of them."""
    shared = [name for name in parts[0].obsm if all(name in part.obsm for part in parts)] if parts else []
    joint = {name: joint_record([part.obsm[name] for part in parts]) for name in shared}
    return {name: record for name, record in joint.items() if record is not None}


def open_obsm(store: Path, folders: Sequence[Path], parts: Sequence[PartRecord], name: str) -> ObsmArray:
    """Map an array of all parts.

    Args:
        store: for messages.
        folders: of the parts.
        parts: what the manifest says of them.
        name: of the array.

    Raises:
        StoreError: no such array, or a file that is not what its part says.
    """
    known = common_records(parts)
    if name not in known:
        what = f"the store has no obsm {name!r}; it has {', '.join(known) or 'none'}"
        raise StoreError(what, where=str(store), fix="name one of them, or convert again with --obsm NAME")
    pieces = tuple(
        map_rows(folder / "obsm" / name, part.obsm[name].dtype, part.n_cells, row=part.obsm[name].width)
        for folder, part in zip(folders, parts, strict=True)
    )
    starts = np.cumsum([0, *(p.n_cells for p in parts)], dtype=np.int64)
    return ObsmArray(pieces, starts, np.dtype(known[name].dtype), known[name].width)


def _document(n: int, record: ObsmRecord) -> dict[str, Any]:
    """`zarr.json` of an array of n rows: that of a shard whose elements are rows."""
    document = array_document(n, np.dtype(record.dtype))
    chunk = inner_chunk(n)
    document["shape"] = [n, record.width]
    document["chunk_grid"]["configuration"]["chunk_shape"] = [max(1, -(-n // chunk)) * chunk, record.width]
    document["codecs"][0]["configuration"]["chunk_shape"] = [chunk, record.width]
    return document | {"attributes": _ENCODING}
