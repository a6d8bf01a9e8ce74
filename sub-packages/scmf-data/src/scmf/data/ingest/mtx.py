"""Matrix-market files with their names beside them, as a source. In: a .mtx file or a folder with one. Out: X.

Knows 10x folders of versions 2 and 3, with or without a prefix, and what STARsolo, kallisto-bustools, alevin-fry,
Parse and the Single Cell Expression Atlas write. Source: the NIST description of the Matrix Market format.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from scmf.data.ingest.findings import refuse
from scmf.data.ingest.source import Matrix, ReadWishes, Source
from scmf.data.ingest.spool import Shape, Spool, SpoolWriter, Triples, text_blocks
from scmf.data.ingest.table import ColumnTable, as_text
from scmf.data.ingest.tenx_h5 import feature_table
from scmf.data.ingest.text_file import first_bytes, open_text, printable, read_columns

Array = npt.NDArray[Any]
Axis = Literal["rows", "columns"]

_SUFFIX: Final = re.compile(r"(\.(tsv|csv|txt))?(\.gz)?$")
_GENE_FILES: Final = ("features", "genes", "gene_names", "all_genes", "gene", "var_names", "mtx_rows", "rows")
_CELL_FILES: Final = ("barcodes", "cells", "cell_metadata", "cell_names", "obs_names", "mtx_cols", "cols", "columns")
_TENX_COLUMNS: Final = ("gene_symbol", "feature_type")


@dataclass(frozen=True, slots=True)
class _Header:
    n_rows: int
    n_columns: int
    n_values: int


class MtxSource(Source):
    """An open matrix-market file with names of genes and cells; a context manager."""

    format: ClassVar[str] = "10x mtx"

    def __init__(self, path: Path, wishes: ReadWishes) -> None:
        super().__init__(path)
        self._mtx = find_matrix(path)
        self._gene_file = _side_file(self._mtx, _GENE_FILES, "genes", "features.tsv.gz")
        self._cell_file = _side_file(self._mtx, _CELL_FILES, "cells", "barcodes.tsv.gz")
        self._header = _read_header(self._mtx)
        genes, cells = read_columns(self._gene_file), read_columns(self._cell_file)
        self._cells_in = self._orient(_length(genes), _length(cells), wishes.cells_in)
        sizes = self._header.n_rows, self._header.n_columns
        n_cells, n_genes = sizes if self._cells_in == "rows" else reversed(sizes)
        self._obs = _names_table(cells, n_cells, ())
        self._var = _features(genes, n_genes)
        self._spool = Spool(self._mtx, scratch=wishes.scratch)
        self._matrix: Matrix | None = None

    def close(self) -> None:
        """Remove the unpacked copy, unless somebody else owns it."""
        self._spool.close()

    def matrices(self) -> dict[str, Matrix]:
        """The matrix as X; its text is unpacked at the first call."""
        if self._matrix is None:
            shape = self._spool.unpack(self._unpack)
            self._matrix = self._spool.matrix(shape, path=self.path, cells_in=self._cells_in)
        return {"X": self._matrix}

    def obs(self) -> ColumnTable:
        """Barcodes, and the other columns of their file."""
        return self._obs

    def var(self, element: str) -> ColumnTable:
        """Gene ids, and the other columns of their file."""
        del element
        return self._var

    def files(self) -> tuple[Path, ...]:
        """The matrix and the two files of names."""
        return (self._mtx, self._gene_file, self._cell_file)

    def notes(self, element: str) -> list[str]:
        """Where the cells are, and which kinds of features are kept."""
        here = f"cells are the {self._cells_in} of {self._mtx.name}, named by {self._cell_file.name}; "
        return [f"{here}genes are named by {self._gene_file.name}", *super().notes(element)]

    def _orient(self, n_genes: int, n_cells: int, wish: Axis | None) -> Axis:
        """Where the cells are, by the lengths of the files of names (which may have a header)."""
        rows, columns = self._header.n_rows, self._header.n_columns
        fits: list[Axis] = []
        if n_genes - rows in {0, 1} and n_cells - columns in {0, 1}:
            fits.append("columns")
        if n_genes - columns in {0, 1} and n_cells - rows in {0, 1}:
            fits.append("rows")
        if not fits:
            names = f"{self._gene_file.name} names {n_genes:,}, {self._cell_file.name} {n_cells:,}"
            what = f"the matrix has {rows:,} rows and {columns:,} columns, but {names}"
            raise refuse("D003", what, where=str(self._mtx), fix="take the three files of one run together")
        if wish is not None and wish not in fits:
            what = f"--cells-in {wish} does not fit: the cells are the {fits[0]} of {rows:,} x {columns:,}"
            raise refuse("D003", what, where=str(self._mtx), fix=f"--cells-in {fits[0]}, or leave it out")
        if len(fits) == 2 and wish is None:
            return self._square()
        return wish or fits[0]

    def _square(self) -> Axis:
        """Orientation of a square matrix: 10x's names mean 10x's layout, anything else has to be said."""
        tenx = re.search(r"(^|[_.\-])matrix\.mtx(\.gz)?$", self._mtx.name) and "barcodes" in self._cell_file.name
        if tenx:
            return "columns"
        what = (
            f"the matrix is square ({self._header.n_rows:,} x {self._header.n_columns:,}): cells and genes look alike"
        )
        raise refuse("D061", what, where=str(self._mtx))

    def _unpack(self, writer: SpoolWriter) -> Shape:
        header = self._header
        with open_text(self._mtx) as file:
            _skip_header(file)
            for block in text_blocks(file):
                triples, bad = _parse(block, (header.n_rows, header.n_columns))
                writer.put(triples)
                if bad is not None:
                    size = f"{header.n_rows:,} x {header.n_columns:,}"
                    what = f"entry {writer.n_values + 1:,} is no entry of a {size} matrix: {bad}"
                    raise refuse("D015", what, where=str(self._mtx))
        if writer.n_values != header.n_values:
            what = f"the file announces {header.n_values:,} entries and has {writer.n_values:,}"
            raise refuse("D016", what, where=str(self._mtx))
        return Shape(header.n_rows, header.n_columns, writer.n_values, writer.order)


def find_matrix(path: Path) -> Path:
    """The one matrix-market file that a path names.

    Raises:
        InputError: D062 when a folder has several.
    """
    if not path.is_dir():
        return path
    found = mtx_files(path)
    if len(found) > 1:
        what = f"the folder has {len(found)} matrices: {', '.join(p.name for p in found[:5])}"
        fix = f"name one of them, or make one store of all: scmf-store convert {shlex.join(map(str, found))} --dest DIR"
        raise refuse("D062", what, where=str(path), fix=fix)
    return found[0]


def mtx_files(folder: Path) -> list[Path]:
    """Matrix-market files of a folder."""
    return sorted(p for p in folder.iterdir() if p.name.endswith((".mtx", ".mtx.gz")) and p.is_file())


def _side_file(mtx: Path, stems: tuple[str, ...], what: str, usual: str) -> Path:
    """The file of names that belongs to a matrix: the one with its prefix, else the only one of the folder."""
    named = {p: _stem(p) for p in sorted(mtx.parent.iterdir()) if p.is_file() and p != mtx}
    prefix = re.sub(r"(matrix)?\.mtx(\.gz)?$", "", mtx.name)
    checks: list[Callable[[str, str], bool]] = [
        lambda stem, name: stem in {f"{prefix}{name}", f"{prefix}.{name}", f"{prefix}_{name}"},
        lambda stem, name: stem == name,
    ]
    for fits in checks:
        for name in stems:
            for path, stem in named.items():
                if fits(stem, name):
                    return path
    near = f"{re.sub(r'matrix$', '', prefix)}{usual}"
    raise refuse(
        "D002",
        f"the matrix has no file with the names of its {what} beside it",
        where=str(mtx),
        fix=f"put {near} beside it, one name a line; known names are {', '.join(stems[:4])} as .tsv, .csv or .txt",
    )


def _stem(path: Path) -> str:
    return _SUFFIX.sub("", path.name)


def _read_header(path: Path) -> _Header:
    lines = first_bytes(path, 1 << 16).split(b"\n")
    words = lines[0].lower().split()
    if len(words) != 5 or words[0] != b"%%matrixmarket" or words[1] != b"matrix":
        raise refuse("D001", "the file does not begin as a matrix-market file does", where=str(path))
    storage, field, symmetry = (w.decode("ascii", "replace") for w in words[2:])
    if storage != "coordinate" or field not in {"integer", "real"} or symmetry != "general":
        what = f"the matrix is {storage} {field} {symmetry}; counts are coordinate integer (or real) general"
        raise refuse("D003", what, where=str(path), fix="write it with scipy.io.mmwrite from a sparse matrix of counts")
    sizes = next((line for line in lines[1:] if line.strip() and not line.startswith(b"%")), b"").split()
    if len(sizes) != 3 or not all(s.isdigit() for s in sizes):
        raise refuse("D016", "the line with the size of the matrix is missing", where=str(path))
    header = _Header(*(int(s) for s in sizes))
    if max(header.n_rows, header.n_columns) >= 1 << 31:
        raise refuse("D003", f"the matrix announces {header.n_rows:,} x {header.n_columns:,}", where=str(path))
    return header


def _skip_header(file: Any) -> None:
    line = file.readline()
    while line.startswith(b"%") or not line.strip():
        line = file.readline()


def _parse(block: bytes, shape: tuple[int, int]) -> tuple[Triples, str | None]:
    """Entries of whole lines, and the first line that is none."""
    from scmf.data.ingest.text_kernels import parse_triples

    most = len(block) // 5 + 1  # the shortest entry is `1 1 1`
    rows, columns, values = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.float64)
    n, bad = parse_triples(np.frombuffer(block, np.uint8), rows, columns, values, shape)
    line = None if bad < 0 else printable(block[bad : bad + 80].split(b"\n")[0])
    return Triples(rows[:n], columns[:n], values[:n]), line


def _length(columns: list[Array]) -> int:
    return len(columns[0]) if columns else 0


def _names_table(columns: list[Array], n: int, usual: tuple[str, ...]) -> ColumnTable:
    """Table of a file of names; a file with one row more than there are names has a header."""
    header = [as_text(c[0]) for c in columns] if _length(columns) == n + 1 else None
    body = [c[1:] if header else c for c in columns]
    names = header or ["index", *usual, *(f"column_{k + 1}" for k in range(len(usual) + 1, len(columns)))]
    return ColumnTable(body[0] if body else np.empty(0, "S1"), dict(zip(names[1:], body[1:], strict=False)))


def _features(columns: list[Array], n: int) -> ColumnTable:
    table = _names_table(columns, n, _TENX_COLUMNS)
    return feature_table(table.index(), **{name: table.column(name) for name in table.columns})
