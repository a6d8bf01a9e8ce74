"""An h5ad file, opened. In: a path. Out: its matrices and tables, found but not yet read.

Knows the encodings of anndata 0.7 to 0.12, and the older ones in which obs and var were compound arrays and
raw was two elements at the root.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import h5py
import numpy as np
import pandas as pd

from scmf.data.ingest.refusals import refuse
from scmf.data.ingest.table import Table

Layout = Literal["csr", "csc", "dense"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix of the file, not yet read."""

    element: str
    """X, raw.X or layers/NAME, as `--counts` spells it."""
    layout: Layout
    n_cells: int
    n_genes: int
    node: Any
    """h5py group (sparse) or dataset (dense)."""

    @property
    def values(self) -> Any:
        """h5py dataset with the matrix's values."""
        return self.node if self.layout == "dense" else self.node["data"]

    @property
    def where(self) -> str:
        """File and element, for messages."""
        return f"{self.node.file.filename}: {self.element}"


class H5adFile:
    """An open h5ad file; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def matrices(self) -> dict[str, Matrix]:
        """Matrices by element: X, raw.X, then the layers, those called counts first."""
        found: dict[str, Any] = {"X": self._file.get("X"), "raw.X": self._file.get("raw/X", self._file.get("raw.X"))}
        layers = self._file.get("layers", {})
        for name in sorted(layers, key=lambda n: ("count" not in n.lower() and "raw" not in n.lower(), n)):
            found[f"layers/{name}"] = layers[name]
        matrices = {element: _matrix(element, node) for element, node in found.items() if node is not None}
        if not matrices:
            raise refuse("D002", "the file has no X, raw.X or layers", where=str(self.path))
        return matrices

    def obs(self) -> Table:
        """Table of the cells."""
        return self._table("obs")

    def obs_rows(self, start: int, stop: int) -> pd.DataFrame:
        """Rows start..stop of obs; InputError D002 for a column in an encoding that is not known."""
        table = self.obs()
        with reading(self.path, "obs"):
            try:
                return table.frame(start, stop)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise refuse("D002", f"obs cannot be read: {error}", where=f"{self.path}: obs") from error

    def var(self, element: str) -> Table:
        """Table of the genes of a matrix; raw.X has its own."""
        if element != "raw.X":
            return self._table("var")
        return self._table("raw/var" if "raw/var" in self._file else "raw.var")

    def place(self, matrix: Matrix, position: int) -> str:
        """Cell and gene of one stored value, by name: `cell AAACCTG, gene ENSG00000141510`."""
        with reading(self.path, matrix.element):
            cell, gene = _locate(matrix, position)
            return f"cell {_name(self.obs(), cell)}, gene {_name(self.var(matrix.element), gene)}"

    def _table(self, name: str) -> Table:
        node = self._file.get(name)
        if node is None:
            raise refuse("D002", f"the file has no {name}", where=str(self.path))
        with reading(self.path, name):
            try:
                return Table(node, legacy_categories=self._file.get("uns"))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise refuse("D002", f"{name} cannot be read: {error}", where=str(self.path)) from error


@contextmanager
def reading(path: str | Path, element: str) -> Iterator[None]:
    """Turn HDF5's complaints about damaged bytes into a refusal that names the element.

    They carry no errno; errors of the operating system, such as a full disk, do, and pass. A damaged link is a
    KeyError whose message begins as HDF5's own do.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        ours = isinstance(error, KeyError) and "Unable to" not in str(error)
        if ours or (isinstance(error, OSError) and error.errno is not None):
            raise
        where = f"{path}: {element}"
        raise refuse("D016", f"part of the file cannot be read: {_first_line(error)}", where=where) from error


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise refuse("D001", "there is no such file", where=str(path))
    if path.is_dir():
        raise refuse("D001", "this is a folder; convert takes h5ad files", where=str(path))
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        number, what = ("D001", "the file is not HDF5, so it is no h5ad") if not _is_hdf5(path) else ("D016", "")
        what = what or f"the file cannot be opened: {_first_line(error)}"
        raise refuse(number, what, where=str(path)) from error


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:  # h5py.is_hdf5 also says no to a truncated file, which deserves another sentence
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _matrix(element: str, node: Any) -> Matrix:
    where = f"{node.file.filename}: {element}"
    if isinstance(node, h5py.Dataset):
        if node.ndim != 2 or node.dtype.kind not in "fiub":
            raise refuse("D003", f"the matrix is an array of {node.dtype} with {node.ndim} axes", where=where)
        return Matrix(element, "dense", node.shape[0], node.shape[1], node)
    encoding = _text(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))
    shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
    layout = encoding.removesuffix("_matrix")
    if layout not in {"csr", "csc"} or shape is None or not {"data", "indices", "indptr"} <= set(node):
        raise refuse("D003", f"the matrix is encoded as {encoding or 'nothing known'}", where=where)
    n_cells, n_genes = (int(n) for n in shape)
    _check_sparse(node, n_cells + 1 if layout == "csr" else n_genes + 1, where)
    return Matrix(element, layout, n_cells, n_genes, node)  # type: ignore[arg-type]  # checked above


def _check_sparse(node: Any, n_starts: int, where: str) -> None:
    n_values, n_indices = node["data"].shape[0], node["indices"].shape[0]
    if node["data"].dtype.kind not in "fiub":
        raise refuse("D003", f"the matrix holds {node['data'].dtype}", where=where)
    if n_values != n_indices or node["indptr"].shape[0] != n_starts:
        what = f"{n_values:,} values, {n_indices:,} indices and {node['indptr'].shape[0]:,} starts do not fit together"
        raise refuse("D015", what, where=where)


def _locate(matrix: Matrix, position: int) -> tuple[int, int]:
    """Cell and gene number of the value at a flat position of the matrix's values."""
    if matrix.layout == "dense":
        return divmod(position, matrix.n_genes)
    starts = matrix.node["indptr"]
    # Searched in the file: a million cells' starts need not be read for one message.
    outer = bisect_right(range(starts.shape[0]), position, key=lambda k: int(starts[k])) - 1
    inner = int(matrix.node["indices"][position])
    return (outer, inner) if matrix.layout == "csr" else (inner, outer)


def _name(table: Table, row: int) -> str:
    return str(table.index(row, row + 1)[0]) if 0 <= row < len(table) else f"number {row}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes | np.bytes_) else str(value)
