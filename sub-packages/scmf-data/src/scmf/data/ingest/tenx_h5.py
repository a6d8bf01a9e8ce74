"""Cell Ranger's .h5 files as a source. In: a path. Out: its matrices, features and barcodes, found but not yet read.

Version 3 and later: one group `matrix` with all features. Version 2: a group for each genome, with barcodes of its
own. Source: "Feature-Barcode Matrices" in 10x Genomics' Cell Ranger documentation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Final

import h5py
import numpy as np
import numpy.typing as npt

from scmf.data.ingest.hdf5 import Hdf5Source
from scmf.data.ingest.source import Matrix, check_sparse, reading
from scmf.data.ingest.table import ColumnTable, as_text

Array = npt.NDArray[Any]

_ARRAYS: Final = frozenset({"barcodes", "data", "indices", "indptr", "shape"})
_PREFIXED: Final = re.compile(r"^[A-Za-z0-9.\-]+?_+(ENS[A-Z]{0,6}G\d{11}.*)$")
"""Gene ids of a reference with several genomes: GRCh38_ENSG00000141510, mm10___ENSMUSG00000059552."""


class TenxH5(Hdf5Source):
    """An open Cell Ranger .h5; a context manager."""

    format: ClassVar[str] = "10x h5"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with reading(path, "its groups"):
            names = genome_groups(self._file)
        # One matrix is X, as everywhere; genomes of version 2 keep their names, for --counts.
        self._groups = {name if len(names) > 1 else "X": self._file[name] for name in names}

    def matrices(self) -> dict[str, Matrix]:
        """X, or one matrix for each genome of a version 2 file."""
        return {element: self._matrix(element, group) for element, group in self._groups.items()}

    def must_name(self) -> str | None:
        """Several genomes have cells of their own, so one has to be named."""
        if len(self._groups) < 2:
            return None
        return f"the file holds {len(self._groups)} genomes, each with cells of its own: {', '.join(self._groups)}"

    def obs(self) -> ColumnTable:
        """Barcodes of the first matrix."""
        return self.cells_of(next(iter(self._groups)))

    def cells_of(self, element: str) -> ColumnTable:
        """Barcodes of a matrix."""
        return ColumnTable(self._groups[element]["barcodes"], {})

    def var(self, element: str) -> ColumnTable:
        """Features: id without the genome's name, symbol, and type and genome where the file has them."""
        group = self._groups[element]
        if "features" not in group:
            return feature_table(_column(group, "genes"), gene_symbol=_column(group, "gene_names"))
        features = group["features"]
        extra = {n: _column(features, n) for n in ("feature_type", "genome") if n in features}
        return feature_table(_column(features, "id"), gene_symbol=_column(features, "name"), **extra)

    def _matrix(self, element: str, group: h5py.Group) -> Matrix:
        with reading(self.path, element):
            n_genes, n_cells = (int(n) for n in group["shape"][:])
            arrays = group["data"], group["indices"], group["indptr"]
        return check_sparse(Matrix(element, "csr", n_cells, n_genes, self.path, *arrays))


def genome_groups(file: h5py.File) -> list[str]:
    """Names of the groups that are Cell Ranger matrices; empty for another kind of file."""
    groups = {name: node for name, node in file.items() if isinstance(node, h5py.Group)}
    return [
        n for n, g in groups.items() if set(g) >= _ARRAYS and ("features" in g or {"genes", "gene_names"} <= set(g))
    ]


def feature_table(ids: Array, **columns: Array) -> ColumnTable:
    """Table of features whose ids have lost the name of their genome."""
    bare = [_PREFIXED.sub(r"\1", as_text(i)) for i in ids]
    return ColumnTable(np.array(bare, dtype=object), columns)


def _column(group: h5py.Group, name: str) -> Array:
    texts: Array = group[name][:]
    return texts
