"""A loom file as a source. In: a path. Out: its matrix, layers and attributes, found but not yet read.

A loom matrix is dense and lies genes x cells. Source: the loom file format specification, 2.0.1 and 3.0.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import h5py
import numpy as np

from scmf.data.ingest.findings import refuse
from scmf.data.ingest.h5ad import ordered_layers
from scmf.data.ingest.hdf5 import Hdf5Source
from scmf.data.ingest.source import ArrayNode, Matrix, check_dense, reading
from scmf.data.ingest.table import ColumnTable
from scmf.data.ingest.transposed import Transposed

_CELL_NAMES: Final = ("CellID", "cell_id", "obs_names", "barcode", "Barcode", "index")
_GENE_IDS: Final = ("Accession", "gene_ids", "ensembl_id", "var_names")
_GENE_NAMES: Final = ("Gene", "gene", "gene_symbol", "gene_name", "gene_names")


class LoomFile(Hdf5Source):
    """An open loom file; a context manager."""

    format: ClassVar[str] = "loom"

    def matrices(self) -> dict[str, Matrix]:
        """The main matrix as X, then the layers, those called counts or raw first."""
        nodes = {"X": self._file["matrix"], **ordered_layers(self._file.get("layers", {}))}
        return {element: self._matrix(element, node) for element, node in nodes.items()}

    def obs(self) -> ColumnTable:
        """Column attributes of one value a cell."""
        columns = self._attributes("col_attrs", self._file["matrix"].shape[1])
        index = next((n for n in _CELL_NAMES if n in columns), None)
        names = np.arange(self._file["matrix"].shape[1]).astype(str) if index is None else columns.pop(index)
        return ColumnTable(names, columns)

    def var(self, element: str) -> ColumnTable:
        """Row attributes of one value a gene; ids are the index where there are some, else names."""
        del element
        columns = self._attributes("row_attrs", self._file["matrix"].shape[0])
        index = next((n for n in (*_GENE_IDS, *_GENE_NAMES) if n in columns), None)
        if index is None:
            what = f"no row attribute names the genes; there are {', '.join(columns) or 'none'}"
            raise refuse("D002", what, where=f"{self.path}: row_attrs")
        symbols = next((n for n in _GENE_NAMES if n in columns and n != index), None)
        ids = columns.pop(index)
        return ColumnTable(ids, {"gene_symbol" if n == symbols else n: c for n, c in columns.items()})

    def obsm(self) -> Mapping[str, ArrayNode]:
        """Column attributes of several numbers a cell, such as coordinates."""
        attributes = self._file.get("col_attrs", {})
        return {n: a for n, a in attributes.items() if len(a.shape) == 2 and a.shape[1] > 1 and a.dtype.kind in "fiu"}

    def notes(self, element: str) -> list[str]:
        """Which kinds of features are kept, and that cells have no names."""
        named = any(n in self._file.get("col_attrs", {}) for n in _CELL_NAMES)
        nameless = [] if named else ["no column attribute names the cells; they are numbered"]
        return [*super().notes(element), *nameless]

    def _matrix(self, element: str, node: Any) -> Matrix:
        if not isinstance(node, h5py.Dataset) or node.ndim != 2:
            raise refuse("D003", "the matrix is no table of numbers", where=f"{self.path}: {element}")
        if node.shape != self._file["matrix"].shape:
            what = f"the layer is {node.shape[0]:,} x {node.shape[1]:,}, the matrix {self._file['matrix'].shape}"
            raise refuse("D003", what, where=f"{self.path}: {element}")
        n_genes, n_cells = node.shape
        return check_dense(Matrix(element, "dense", n_cells, n_genes, self.path, Transposed(node)))

    def _attributes(self, group: str, n: int) -> dict[str, Any]:
        """Attributes with one value a row; (n, 1) arrays, as some programs write, lose their second axis."""
        with reading(self.path, group):
            found = {str(name): node for name, node in self._file.get(group, {}).items()}
            if None in found.values():
                what = "an attribute cannot be read: its link leads nowhere"
                raise refuse("D016", what, where=f"{self.path}: {group}")
            return {name.replace("/", "_"): _flat(a) for name, a in found.items() if a.shape in {(n,), (n, 1)}}


def _flat(node: Any) -> Any:
    return node if len(node.shape) == 1 else node[:, 0]


def is_loom(file: h5py.File) -> bool:
    """Whether an HDF5 file is a loom file."""
    return isinstance(file.get("matrix"), h5py.Dataset) and "row_attrs" in file and "col_attrs" in file
