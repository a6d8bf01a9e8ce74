"""A BioNeMo SCDL folder as a source. In: a folder. Out: X and its tables, checked for the silent faults of SCDL.

Layout: `data.npy`, `col_ptr.npy` and `row_ptr.npy` are bare arrays (no NumPy header) whose types are in `header.sch`;
`var_features` and `obs_features` hold a parquet file for each run of cells with the same columns. Source:
bionemo-scdl 0.1.3, schema 0.1.0 and its scdl-schema.md.

What is found: arrays that do not have the size the header gives them (a cast or a concatenation of stored sets
leaves the old header), tables of genes left over from an earlier save (names shift when the tenth is added), gene
numbers beyond the table (counts of raw.X with the names of var). What cannot be found is in `notes`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from scmf.data.ingest.findings import refuse
from scmf.data.ingest.source import Matrix, Source, check_sparse, first_line
from scmf.data.ingest.spool import FileNode
from scmf.data.ingest.table import ColumnTable, FrameTable

Array = npt.NDArray[Any]

_TYPES: Final = {1: "uint8", 2: "uint16", 3: "uint32", 4: "uint64", 5: "float16", 6: "float32", 7: "float64"}
_FILES: Final = {"DATA": "data.npy", "ROWPTR": "row_ptr.npy", "COLPTR": "col_ptr.npy"}
_AGAIN: Final = "make the SCDL folder again from its h5ad files, or convert those files"
_ONE_AS_BITS: Final = 0x3F800000
"""1.0 as float32, read as uint32."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Cells with the same genes."""

    first_cell: int
    stop: int
    genes: pa.Table
    first_value: int
    first_column: int


class ScdlSource(Source):
    """An open SCDL folder; a context manager."""

    format: ClassVar[str] = "BioNeMo SCDL"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._arrays = _open_arrays(path)
        starts = self._arrays["ROWPTR"]
        self._n_cells = starts.shape[0] - 1
        _check_starts(path, starts, self._arrays["DATA"].shape[0])
        tables, ends = _read_tables(path, "var_features" if (path / "var_features").is_dir() else "features")
        if not ends or ends[-1] != self._n_cells:
            what = f"the tables of genes cover {ends[-1] if ends else 0:,} cells, the matrix has {self._n_cells:,}"
            raise refuse("D063", what, where=str(path), fix=_AGAIN)
        self._blocks = _blocks(tables, ends, starts)

    def close(self) -> None:
        """Nothing is held open."""

    def matrices(self) -> dict[str, Matrix]:
        """The matrix as X. Runs of cells with genes of their own get columns of their own, side by side."""
        n_genes = sum(block.genes.num_rows for block in self._blocks)
        columns = _Columns(self._arrays["COLPTR"], self._blocks, self.path)
        arrays = self._arrays["DATA"], columns, self._arrays["ROWPTR"]
        matrix = check_sparse(Matrix("X", "csr", self._n_cells, n_genes, self.path, *arrays))
        _check_bits(matrix)
        return {"X": matrix}

    def obs(self) -> FrameTable | ColumnTable:
        """The kept columns of obs; SCDL does not keep the names of cells, so they are numbered."""
        names = np.arange(self._n_cells).astype("S")
        folder = self.path / "obs_features"
        if not folder.is_dir():
            return ColumnTable(names, {})
        tables, ends = _read_tables(self.path, "obs_features")
        if (
            not ends
            or ends[-1] != self._n_cells
            or any(t.num_rows != b - a for t, a, b in zip(tables, [0, *ends], ends, strict=False))
        ):
            what = f"the tables of obs do not cover the {self._n_cells:,} cells"
            raise refuse("D063", what, where=str(folder), fix=_AGAIN)
        frame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
        return FrameTable(frame.set_axis(np.arange(self._n_cells).astype(str)))

    def var(self, element: str) -> FrameTable:
        """The genes of every run of cells, one run after another."""
        del element
        table = pa.concat_tables([b.genes for b in self._blocks], promote_options="permissive")
        return FrameTable(table.to_pandas().set_axis(np.arange(table.num_rows).astype(str)))

    def files(self) -> tuple[Path, ...]:
        """Every file of the folder."""
        return tuple(sorted(p for p in self.path.rglob("*") if p.is_file()))

    def notes(self, element: str) -> list[str]:
        """What an SCDL folder cannot tell."""
        del element
        lost = "SCDL keeps no names of cells, no layers and no obsm; cells are numbered"
        unseen = (
            "whether the counts came from X or raw.X, and from a square CSC matrix (which SCDL transposes), "
            "is not in the folder: compare a few cells with the h5ad"
        )
        sets = f"{len(self._blocks)} runs of cells have genes of their own; they are joined by id"
        return [lost, unseen, *([sets] if len(self._blocks) > 1 else [])]


class _Columns:
    """Gene numbers of the values, moved to the columns of their run of cells."""

    def __init__(self, node: FileNode, blocks: list[_Block], path: Path) -> None:
        self._node, self._blocks, self._path = node, blocks, path
        self._firsts = np.array([b.first_value for b in blocks], np.int64)
        self._offsets = np.array([b.first_column for b in blocks], np.int64)
        self._sizes = np.array([b.genes.num_rows for b in blocks], np.int64)
        self.shape, self.dtype = node.shape, np.dtype(np.int64)

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self.shape[0])
        numbers = self._node[start:stop].astype(np.int64)
        block = np.searchsorted(self._firsts, np.arange(start, stop), side="right") - 1
        if len(numbers) and (numbers >= self._sizes[block]).any():
            k = int((numbers >= self._sizes[block]).argmax())
            what = f"a cell names gene {numbers[k]:,}, its table has {self._sizes[block[k]]:,}"
            why = "counts of raw.X with the names of var, or a matrix that was concatenated after it was stored"
            raise refuse("D063", f"{what}: {why}", where=f"{self._path}/col_ptr.npy", fix=_AGAIN)
        moved: Array = numbers + self._offsets[block]
        return moved


def _open_arrays(path: Path) -> dict[str, FileNode]:
    found = _read_header(path / "header.sch")
    nodes: dict[str, FileNode] = {}
    for name, file in _FILES.items():
        if name not in found or not (path / file).is_file():
            raise refuse("D063", f"the folder has no {file}, or its header does not", where=str(path), fix=_AGAIN)
        length, dtype = found[name]
        size = (path / file).stat().st_size
        if size != length * dtype.itemsize:
            what = (
                f"{file} has {size:,} bytes, the header says {length:,} {dtype} ({length * dtype.itemsize:,}): "
                "the set was cast or joined after it was stored, and its header is the old one"
            )
            raise refuse("D063", what, where=str(path / file), fix=_AGAIN)
        nodes[name] = FileNode(path / file, dtype, length)
    return nodes


def _read_header(path: Path) -> dict[str, tuple[int, np.dtype[Any]]]:
    """Length and type of each array."""
    if not path.is_file():
        what = "there is no header.sch, so the types of the arrays are unknown (SCDL before 0.1.0)"
        raise refuse("D063", what, where=str(path.parent), fix=_AGAIN)
    raw, found = path.read_bytes(), {}
    if not raw.startswith(b"SCDL"):
        raise refuse("D016", "the header does not begin with SCDL", where=str(path), fix=_AGAIN)
    try:
        n = struct.unpack_from("!4sBBBBII", raw)[-1]
        place = struct.calcsize("!4sBBBBII")
        for _ in range(n):
            size = struct.unpack_from("!I", raw, place)[0]
            name = raw[place + 4 : place + 4 + size].decode()
            length, kind, shaped = struct.unpack_from("!QIB", raw, place + 4 + size)
            place += 4 + size + 13
            place += 4 + 4 * struct.unpack_from("!I", raw, place)[0] if shaped else 0
            found[name] = (int(length), np.dtype(_TYPES[kind]))
    except (struct.error, ValueError, KeyError) as error:
        raise refuse("D016", f"the header cannot be read: {error}", where=str(path), fix=_AGAIN) from error
    return found


def _check_starts(path: Path, starts: FileNode, n_values: int) -> None:
    first, last = int(starts[0:1][0]), int(starts[starts.shape[0] - 1 : starts.shape[0]][0])
    if (first, last) != (0, n_values):
        what = f"the cells end at {last:,}, the set has {n_values:,} values"
        raise refuse("D063", what, where=f"{path}/row_ptr.npy", fix=_AGAIN)


def _check_bits(matrix: Matrix) -> None:
    """Refuse integers that are the bits of float32 and floats that are the bits of integers: a cast of equal width."""
    head = matrix.values[0 : 1 << 16]
    known = head[head != 0]
    if not known.size:
        return
    wrong = known.min() >= _ONE_AS_BITS if known.dtype == np.uint32 else np.abs(known.astype(np.float64)).max() < 1e-30
    if wrong:
        what = f"the values ({known.min():.6g} to {known.max():.6g}) are bits of another type than the header's"
        raise refuse("D063", what, where=f"{matrix.path}/data.npy", fix=_AGAIN)


def _read_tables(path: Path, folder: str) -> tuple[list[pa.Table], list[int]]:
    """Tables of a feature index in order, and the cell at which each ends."""
    files = sorted((path / folder).glob("dataframe_*.parquet"))
    index = path / folder / "cumulative_sum_index.npy"
    if not files or not index.is_file():
        raise refuse("D063", f"the folder has no {folder}", where=str(path), fix=_AGAIN)
    where = str(path / folder)
    try:
        ends = [int(n) for n in np.load(index, allow_pickle=False)[1:]]
    except Exception as error:  # a damaged header is parsed as Python, whose tokenizer complains in its own way
        what = f"cumulative_sum_index.npy cannot be read: {first_line(error)}"
        raise refuse("D016", what, where=where, fix=_AGAIN) from error
    wanted = [f"dataframe_{k:0{len(str(len(ends)))}d}.parquet" for k in range(len(ends))]
    if [f.name for f in files] != wanted:
        stale = [f.name for f in files if f.name not in wanted]
        what = f"{len(files)} tables for {len(ends)} runs of cells; left over or misplaced: {', '.join(stale[:3])}"
        raise refuse("D063", what, where=where, fix=_AGAIN)
    try:
        return [pq.read_table(f) for f in files], ends
    except (pa.ArrowException, OSError, ValueError) as error:
        raise refuse("D016", f"a table cannot be read: {first_line(error)}", where=where, fix=_AGAIN) from error


def _blocks(tables: list[pa.Table], ends: list[int], starts: FileNode) -> list[_Block]:
    blocks, column, cell = [], 0, 0
    for table, stop in zip(tables, ends, strict=True):
        value = int(starts[cell : cell + 1][0])
        blocks.append(_Block(cell, stop, table, value, column))
        column, cell = column + table.num_rows, stop
    return blocks
