"""AnnData in zarr as a source. In: a folder (or an uncompressed .zip of one). Out: its matrices and tables, unread.

Reads zarr v2 and v3. zarr takes a chunk that is missing for zeros; here a missing chunk of a sparse matrix is an
error, since its zeros would silently be counts of the first gene.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import zarr
from zarr.storage import LocalStore, ZipStore

from scmf.data.ingest.findings import refuse
from scmf.data.ingest.h5ad import open_table, ordered_layers, read_matrix
from scmf.data.ingest.source import ArrayNode, Matrix, Source, first_line
from scmf.data.ingest.table import NodeTable


class ZarrNode:
    """A zarr array whose complaints are refusals that name it."""

    def __init__(self, array: zarr.Array[Any], where: str) -> None:
        self._array, self._where = array, where
        self.shape: tuple[int, ...] = array.shape
        self.dtype: Any = array.dtype
        self.chunks: tuple[int, ...] = array.shards or array.chunks
        self.attrs = array.attrs
        self.ndim = len(array.shape)

    def __getitem__(self, rows: Any) -> Any:
        try:
            return self._array[rows]
        except Exception as error:  # codecs raise whatever they like
            what = f"part of the array cannot be read: {first_line(error)}"
            raise refuse("D016", what, where=self._where) from error

    def check_whole(self) -> ZarrNode:
        """The array; InputError D016 when a chunk of it is missing."""
        found, wanted = self._array.nchunks_initialized, self._array.nchunks
        if found < wanted:
            raise refuse("D016", f"{wanted - found:,} of {wanted:,} chunks are missing", where=self._where)
        return self


class ZarrGroup:
    """A zarr group that looks like an HDF5 group to the readers of tables and matrices."""

    def __init__(self, group: zarr.Group, path: Path) -> None:
        self._group, self._path = group, path
        self.attrs = group.attrs
        self.name = group.name

    def __iter__(self) -> Any:
        with self._naming(self.name):
            return iter(list(self._group))

    def __contains__(self, name: str) -> bool:
        with self._naming(name):
            return name in self._group

    def __getitem__(self, name: str) -> Any:
        with self._naming(name):
            node = self._group[name]
        where = f"{self._path}: {node.name.lstrip('/')}"
        return ZarrGroup(node, self._path) if isinstance(node, zarr.Group) else ZarrNode(node, where)

    def get(self, name: str) -> Any:
        """The node of that name, None where there is none."""
        return self[name] if name in self else None  # noqa: SIM401  # this is what `get` is

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Name the node whose metadata is damaged: JSON, codecs and types each complain in their own way."""
        where = f"{self._path}: {self.name.strip('/')}/{name.strip('/')}".replace(": /", ": ")
        try:
            yield
        except KeyError as error:
            raise refuse("D002", f"there is no {name}", where=where) from error
        except Exception as error:
            raise refuse("D016", f"the metadata cannot be read: {first_line(error)}", where=where) from error


class AnnDataZarr(Source):
    """An open AnnData zarr group; a context manager."""

    format: ClassVar[str] = "AnnData zarr"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._store = LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")
        try:
            # Consolidated metadata may be older than the arrays: what each array says of itself counts.
            group = zarr.open_group(self._store, mode="r", use_consolidated=False)
            self._group = ZarrGroup(group, path)
        except Exception as error:
            self._store.close()
            raise refuse("D016", f"the zarr group cannot be opened: {first_line(error)}", where=str(path)) from error

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def matrices(self) -> dict[str, Matrix]:
        """Matrices by element: X, raw.X, then the layers, those called counts first."""
        found: dict[str, Any] = {"X": self._group.get("X"), "raw.X": self._group.get("raw/X")}
        found |= ordered_layers(self._group.get("layers") or {})
        matrices = {e: self._matrix(e, node) for e, node in found.items() if node is not None}
        if not matrices:
            raise refuse("D002", "the folder has no X, raw/X or layers", where=str(self.path))
        return matrices

    def obs(self) -> NodeTable:
        """Table of the cells."""
        return open_table(self.path, "obs", self._group.get("obs"))

    def var(self, element: str) -> NodeTable:
        """Table of the genes of a matrix; raw.X has its own."""
        name = "raw/var" if element == "raw.X" else "var"
        return open_table(self.path, name, self._group.get(name))

    def obsm(self) -> Mapping[str, ArrayNode]:
        """Dense arrays of obsm; tables and sparse ones are left out."""
        group = self._group.get("obsm")
        nodes = {} if group is None else {name: group[name] for name in group}
        return {n: node for n, node in nodes.items() if isinstance(node, ZarrNode) and len(node.shape) == 2}

    def files(self) -> tuple[Path, ...]:
        """Every file of the group."""
        if not self.path.is_dir():
            return (self.path,)
        return tuple(sorted(p for p in self.path.rglob("*") if p.is_file()))

    def _matrix(self, element: str, node: Any) -> Matrix:
        matrix = read_matrix(element, node, self.path)
        for part in (matrix.values, matrix.indices, matrix.indptr) if matrix.layout != "dense" else ():
            if isinstance(part, ZarrNode) and matrix.n_stored:
                part.check_whole()
        return matrix
