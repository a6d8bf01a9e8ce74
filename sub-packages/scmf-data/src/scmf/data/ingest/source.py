"""What conversion reads. In: a path to anything with counts. Out: one `Source`, whatever the format.

A source is found and described, not read: its matrices are arrays that can be sliced, its tables are read row by
row. Every reader is a class of its own; nothing above this file knows a format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from scmf.data.ingest.features import feature_notes, kept_features
from scmf.data.ingest.findings import refuse
from scmf.data.ingest.table import Table

Array = npt.NDArray[Any]
Layout = Literal["csr", "csc", "coo", "dense"]

_PLAIN: Final = frozenset({"raw", "raw_counts", "raw counts", "count"})
"""Names of layers of raw counts, beside `counts`."""


class ArrayNode(Protocol):
    """An array somewhere: an HDF5 dataset, a zarr array, a memory map, a NumPy array.

    A slice of its first axis is a NumPy array. `chunks` (rows first) and `read_direct(buffer, slice)` are used
    where a node has them.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element; a bool, an integer or a float."""

    def __getitem__(self, rows: slice) -> Any:
        """Elements of a slice of the first axis."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix of cells x genes, not yet read."""

    element: str
    """X, raw.X, layers/NAME or a genome's name, as `--counts` spells it."""
    layout: Layout
    n_cells: int
    n_genes: int
    path: Path
    """The source's path, for messages."""
    values: ArrayNode
    """(values,) for a sparse matrix; (n_cells, n_genes) for a dense one."""
    indices: ArrayNode | None = None
    """(values,) genes (csr, coo) or cells (csc); None in a dense matrix."""
    indptr: ArrayNode | None = None
    """(n_cells + 1,) (csr) or (n_genes + 1,) (csc) first value of each; None otherwise."""
    rows: ArrayNode | None = None
    """(values,) cells of a coo matrix, in any order; None otherwise."""

    @property
    def where(self) -> str:
        """File and element, for messages."""
        return f"{self.path}: {self.element}"

    @property
    def n_stored(self) -> int:
        """Values stored, of any size."""
        return int(np.prod(self.values.shape, dtype=np.int64))

    def minor(self) -> ArrayNode:
        """Indices of a sparse matrix; a programming error for a dense one."""
        return _present(self.indices)

    def starts(self) -> ArrayNode:
        """Indptr of a csr or csc matrix; a programming error for others."""
        return _present(self.indptr)


@dataclass(frozen=True, slots=True)
class ReadWishes:
    """What the user says about reading, beside the element."""

    cells_in: Literal["rows", "columns"] | None = None
    """Where the cells of a plain table or matrix are; None: found by the names of the genes, or refused."""
    scratch: Path | None = None
    """Folder for unpacked text, kept until its owner removes it; None: a temporary folder, gone on close."""


class Source(ABC):
    """An open source; a context manager. Readers fill in `matrices`, `obs`, `var` and `close`."""

    format: ClassVar[str]
    """What people call it: `h5ad`, `10x h5`, `loom`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def matrices(self) -> dict[str, Matrix]:
        """Matrices by element, the likeliest to hold raw counts first; at least one.

        Raises:
            InputError: D002, D003, D015 or D016.
        """

    @abstractmethod
    def obs(self) -> Table:
        """Table of the cells."""

    @abstractmethod
    def var(self, element: str) -> Table:
        """Table of the genes (columns) of a matrix."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the files."""

    def cells_of(self, element: str) -> Table:
        """Table of the cells of a matrix: obs, but where matrices have cells of their own (genomes of 10x v2)."""
        del element
        return self.obs()

    def files(self) -> tuple[Path, ...]:
        """Every file that is read, for checksums."""
        return (self.path,)

    def obsm(self) -> Mapping[str, ArrayNode]:
        """(n_cells, width) arrays beside obs, such as spatial coordinates, by name."""
        return {}

    def kept_columns(self, element: str) -> npt.NDArray[np.bool_] | None:
        """(n_genes,) columns that are genes; None where all are. Others (antibodies, guides) are dropped and told."""
        return kept_features(self.var(element), where=f"{self.path}: {element}")

    def notes(self, element: str) -> list[str]:
        """What a person should know about how this was read, one sentence each."""
        return feature_notes(self.var(element))

    def must_name(self) -> str | None:
        """Why the element cannot be chosen without the user (several genomes); None where it can."""
        return None

    def obs_rows(self, start: int, stop: int, *, element: str = "X") -> pd.DataFrame:
        """Rows start..stop of obs; InputError D002 for a column in an encoding that is not known."""
        table = self.cells_of(element)
        with reading(self.path, "obs"):
            try:
                return table.frame(start, stop)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise refuse("D002", f"obs cannot be read: {error}", where=f"{self.path}: obs") from error

    def place(self, matrix: Matrix, position: int) -> str:
        """Cell and gene of one stored value, by name: `cell AAACCTG, gene ENSG00000141510`."""
        with reading(self.path, matrix.element):
            cell, gene = locate(matrix, position)
            names = _name(self.cells_of(matrix.element), cell), _name(self.var(matrix.element), gene)
        return f"cell {names[0]}, gene {names[1]}"


@contextmanager
def reading(path: str | Path, element: str) -> Iterator[None]:
    """Turn a library's complaints about damaged bytes into a refusal that names the element.

    HDF5's and zarr's errors carry no errno; errors of the operating system, such as a full disk, do, and pass.
    A damaged link of HDF5 is a KeyError whose message begins as HDF5's own do.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError, UnicodeError) as error:  # the last: a name whose bytes are damaged
        ours = isinstance(error, KeyError) and "Unable to" not in str(error)
        if ours or (isinstance(error, OSError) and error.errno is not None):
            raise
        where = f"{path}: {element}"
        raise refuse("D016", f"part of the file cannot be read: {first_line(error)}", where=where) from error


def by_likelihood(layers: Iterable[str]) -> list[str]:
    """Names of layers, the likeliest to hold raw counts first."""
    return sorted(layers, key=lambda name: (likelihood(name), name))


def likelihood(layer: str) -> int:
    """How well a layer's name says that it holds raw counts: 0 plainly, 3 not at all (spliced, ambiguous)."""
    name = layer.lower()
    if name == "counts":
        return 0
    if name in _PLAIN:
        return 1
    return 2 if "count" in name or "raw" in name else 3


def first_line(error: Exception) -> str:
    """First line of an error's message, or its kind."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def locate(matrix: Matrix, position: int) -> tuple[int, int]:
    """Cell and gene number of the value at a flat position of the matrix's values."""
    if matrix.layout == "dense":
        return divmod(position, matrix.n_genes)
    inner = int(matrix.minor()[position : position + 1][0])
    if matrix.rows is not None:
        return int(matrix.rows[position : position + 1][0]), inner
    starts = matrix.starts()
    # Searched in the file: a million cells' starts need not be read for one message.
    outer = bisect_right(range(starts.shape[0]), position, key=lambda k: int(starts[k : k + 1][0])) - 1
    return (outer, inner) if matrix.layout == "csr" else (inner, outer)


def check_values(dtype: np.dtype[Any], where: str) -> None:
    """Refuse a matrix whose values are no numbers."""
    if dtype.kind not in "fiub":
        raise refuse("D003", f"the matrix holds {dtype}", where=where)


def check_sparse(matrix: Matrix) -> Matrix:
    """The matrix; InputError D003 or D015 when its arrays do not fit together."""
    check_values(matrix.values.dtype, matrix.where)
    n_values, n_indices = matrix.values.shape[0], matrix.minor().shape[0]
    n_starts = matrix.starts().shape[0]
    if n_values != n_indices or n_starts != (matrix.n_cells if matrix.layout == "csr" else matrix.n_genes) + 1:
        what = f"{n_values:,} values, {n_indices:,} indices and {n_starts:,} starts do not fit together"
        raise refuse("D015", what, where=matrix.where)
    return matrix


def check_dense(matrix: Matrix) -> Matrix:
    """The matrix; InputError D003 when it is no table of numbers."""
    if len(matrix.values.shape) != 2 or matrix.values.dtype.kind not in "fiub":
        what = f"the matrix is an array of {matrix.values.dtype} with {len(matrix.values.shape)} axes"
        raise refuse("D003", what, where=matrix.where)
    return matrix


def _present(node: ArrayNode | None) -> ArrayNode:
    if node is None:
        raise TypeError("a dense matrix has no indices")
    return node


def _name(table: Table, row: int) -> str:
    return str(table.index(row, row + 1)[0]) if 0 <= row < len(table) else f"number {row}"
