"""An h5ad file as a source. In: a path. Out: its matrices and tables, found but not yet read.

Knows the encodings of anndata 0.7 to 0.12, and the older ones in which obs and var were compound arrays and
raw was two elements at the root.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import h5py

from scmf.data.ingest.findings import refuse
from scmf.data.ingest.hdf5 import Hdf5Source
from scmf.data.ingest.source import ArrayNode, Matrix, by_likelihood, check_dense, check_sparse, reading
from scmf.data.ingest.table import NodeTable, as_text


class H5adFile(Hdf5Source):
    """An open h5ad file; a context manager."""

    format: ClassVar[str] = "h5ad"

    def matrices(self) -> dict[str, Matrix]:
        """Matrices by element: X, raw.X, then the layers, those called counts first."""
        found: dict[str, Any] = {"X": self._file.get("X"), "raw.X": self._file.get("raw/X", self._file.get("raw.X"))}
        found |= ordered_layers(self._file.get("layers", {}))
        matrices = {e: read_matrix(e, node, self.path) for e, node in found.items() if node is not None}
        if not matrices:
            raise refuse("D002", "the file has no X, raw.X or layers", where=str(self.path))
        return matrices

    def obs(self) -> NodeTable:
        """Table of the cells."""
        return self._table("obs")

    def var(self, element: str) -> NodeTable:
        """Table of the genes of a matrix; raw.X has its own."""
        if element != "raw.X":
            return self._table("var")
        return self._table("raw/var" if "raw/var" in self._file else "raw.var")

    def obsm(self) -> Mapping[str, ArrayNode]:
        """Dense arrays of obsm; tables and sparse ones are left out."""
        group = self._file.get("obsm")
        if not isinstance(group, h5py.Group):
            return {}
        return {name: node for name, node in group.items() if isinstance(node, h5py.Dataset) and node.ndim == 2}

    def _table(self, name: str) -> NodeTable:
        return open_table(self.path, name, self._file.get(name), uns=self._file.get("uns"))


def ordered_layers(layers: Any) -> dict[str, Any]:
    """Nodes of the layers by element, those called counts or raw first."""
    return {f"layers/{name}": layers[name] for name in by_likelihood(layers)}


def open_table(path: Path, name: str, node: Any, *, uns: Any = None) -> NodeTable:
    """Table of obs or var; InputError D002 where it is missing or in no known encoding."""
    if node is None:
        raise refuse("D002", f"the file has no {name}", where=str(path))
    with reading(path, name):
        try:
            return NodeTable(node, legacy_categories=uns)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise refuse("D002", f"{name} cannot be read: {error}", where=str(path)) from error


def read_matrix(element: str, node: Any, path: Path) -> Matrix:
    """The matrix at a node of HDF5 or zarr, in anndata's encodings; InputError D003 or D015."""
    if hasattr(node, "shape"):
        shape = node.shape if len(node.shape) == 2 else (0, 0)
        return check_dense(Matrix(element, "dense", shape[0], shape[1], path, node))
    encoding = as_text(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))
    shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
    layout = encoding.removesuffix("_matrix")
    if layout not in {"csr", "csc"} or shape is None or not {"data", "indices", "indptr"} <= set(node):
        what = f"the matrix is encoded as {encoding or 'nothing known'}"
        raise refuse("D003", what, where=f"{path}: {element}")
    n_cells, n_genes = (int(n) for n in shape)
    arrays = node["data"], node["indices"], node["indptr"]
    return check_sparse(Matrix(element, layout, n_cells, n_genes, path, *arrays))  # type: ignore[arg-type]  # checked
