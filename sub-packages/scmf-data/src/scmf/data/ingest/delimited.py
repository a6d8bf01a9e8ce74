"""A table of counts as text (CSV, TSV, plain or gzip) as a source. In: a path. Out: X.

Such a table does not say whether its rows are cells or genes. The names decide: Ensembl ids are genes, barcodes are
cells. Where neither is found the user has to say.
"""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from scmf.data.ingest.findings import refuse
from scmf.data.ingest.genes import ENSEMBL
from scmf.data.ingest.name_space import is_barcode
from scmf.data.ingest.source import Matrix, ReadWishes, Source
from scmf.data.ingest.spool import Shape, Spool, SpoolWriter, Triples
from scmf.data.ingest.table import ColumnTable, as_text
from scmf.data.ingest.text_file import is_blank_table, open_text, printable, separator_of
from scmf.data.ingest.text_kernels import parse_fields

Array = npt.NDArray[Any]
Axis = Literal["rows", "columns"]

_AWK: Final = {"\t": "\\t"}
"""How awk spells a separator, where not as it is."""
_NUMBER: Final = re.compile(r"\d+(\.0*)?")
_PEEK: Final = 300
"""Rows whose names are looked at before the table is read."""
_BLOCK: Final = 1 << 20


class DelimitedSource(Source):
    """An open table of counts; a context manager."""

    format: ClassVar[str] = "table"

    def __init__(self, path: Path, wishes: ReadWishes) -> None:
        super().__init__(path)
        self._separator = b","
        self._header, names = self._peek()
        self._cells_in, self._why = self._orient(names, wishes.cells_in)
        self._spool = Spool(path, scratch=wishes.scratch, key="table")
        self._shape: Shape | None = None

    def close(self) -> None:
        """Remove the unpacked copy, unless somebody else owns it."""
        self._spool.close()

    def matrices(self) -> dict[str, Matrix]:
        """The table as X; it is unpacked at the first call."""
        return {"X": self._spool.matrix(self._unpacked(), path=self.path, cells_in=self._cells_in)}

    def obs(self) -> ColumnTable:
        """Names of the cells."""
        return self._names("rows" if self._cells_in == "rows" else "columns")

    def var(self, element: str) -> ColumnTable:
        """Names of the genes."""
        del element
        return self._names("columns" if self._cells_in == "rows" else "rows")

    def notes(self, element: str) -> list[str]:
        """Where the cells are and how that is known."""
        del element
        return [f"cells are the {self._cells_in}: {self._why}"]

    def _names(self, axis: Axis) -> ColumnTable:
        self._unpacked()
        names = self._spool.names("rows") if axis == "rows" else np.array(self._header, dtype=object)
        return ColumnTable(names, {})

    def _unpacked(self) -> Shape:
        if self._shape is None:
            self._shape = self._spool.unpack(self._unpack)
        return self._shape

    def _peek(self) -> tuple[list[str], list[str]]:
        """Names of the columns, and of the first rows."""
        with open_text(self.path) as file:
            first = file.readline()
            self._separator = b" " if is_blank_table(self.path) else separator_of(first)
            rows = [self._split(line) for line, _ in zip(_lines(file), range(_PEEK), strict=False)]
        try:
            header = _fields(first.rstrip(b"\r\n"), self._separator)
        except csv.Error as error:
            raise refuse("D003", f"the header cannot be read: {error}", where=str(self.path)) from error
        if not rows:
            raise refuse("D004", "the table has no row below its header", where=str(self.path))
        width = 1 + rows[0][1].count(self._separator)
        # The corner cell above the names of the rows may be there or not.
        corner, header = (header[0], header[1:]) if len(header) == width + 1 else ("", header)
        if len(header) != width:
            what = f"the header has {len(header):,} fields and the first row {width + 1:,}"
            raise refuse("D003", what, where=str(self.path), fix="write one name a column, and nothing else")
        names = [as_text(name) for name, _ in rows]
        self._refuse_nameless(corner, header, names)
        return header, names

    def _refuse_nameless(self, corner: str, header: list[str], rows: list[str]) -> None:
        """Refuse counts where names should be: they would be taken for names, and a gene or a cell be lost."""
        numbers = _repeated_numbers(header)
        if not numbers and not _repeated_numbers(rows) and not ENSEMBL.match(corner):
            return
        mark = self._separator.decode()
        if numbers:
            what = f"the first line is no header but a row: {', '.join([corner, *header[:3]])}"
            make = 'NR==1{h="name"; for(i=2;i<=NF;i++) h=h FS "column" i-1; print h} 1'
        else:
            what = f"the rows have no names: their first fields are {', '.join(rows[:3])}"
            make = f'{{print (NR==1 ? "name" : "row" NR-1) "{_AWK.get(mark, mark)}" $0}}'
        program = f"awk -F {shlex.quote(_AWK.get(mark, mark))} {shlex.quote(make)}"
        fix = f"take the table with names from its origin, or number them: {self._rewritten(program)}"
        raise refuse("D003", what, where=str(self.path), fix=fix)

    def _orient(self, rows: list[str], wish: Axis | None) -> tuple[Axis, str]:
        """Where the cells are, and why."""
        if wish is not None:
            return wish, "as --cells-in says"
        seen = {"header": self._header, "first column": rows}
        genes = {place: _share(ENSEMBL.search, names) for place, names in seen.items()}
        cells = {place: _share(is_barcode, names) for place, names in seen.items()}
        for kind, share in (("Ensembl ids", genes), ("barcodes", cells)):
            place, other = sorted(seen, key=lambda p: share[p], reverse=True)
            if share[place] >= 0.5 > share[other]:
                in_rows = (place == "header") == (kind == "Ensembl ids")
                return "rows" if in_rows else "columns", f"{share[place]:.0%} of the {place} are {kind}"
        raise self._undecided(rows)

    def _undecided(self, rows: list[str]) -> Exception:
        what = (
            "neither Ensembl ids nor barcodes tell whether the rows are cells or genes "
            f"(header: {', '.join(self._header[:3])}; first column: {', '.join(rows[:3])})"
        )
        command = f"scmf-store convert {shlex.quote(str(self.path))} --dest DIR --cells-in columns"
        fix = f"say where the cells are, --cells-in rows or (as in most tables) --cells-in columns: {command}"
        return refuse("D061", what, where=str(self.path), fix=fix)

    def _split(self, line: bytes) -> tuple[bytes, bytes]:
        """Name of a row, and the rest of it."""
        if line.startswith(b'"'):
            end = line.find(b'"', 1)
            return line[1:end], line[end + 2 :]
        name, _, rest = line.partition(self._separator)
        return name.strip(), rest

    def _unpack(self, writer: SpoolWriter) -> Shape:
        columns, values = np.empty(len(self._header), np.int32), np.empty(len(self._header), np.float64)
        row, names, block = 0, list[bytes](), list[tuple[int, Array, Array]]()
        with open_text(self.path) as file:
            file.readline()
            for line in _lines(file):
                name, rest = self._split(line)
                fields, n, bad = parse_fields(np.frombuffer(rest, np.uint8), self._separator[0], columns, values)
                if bad >= 0 or fields != len(self._header):
                    raise self._no_row(row, printable(name), rest, (fields, bad))
                block.append((row, columns[:n].copy(), values[:n].copy()))
                names.append(name)
                row += 1
                if len(names) * len(self._header) >= _BLOCK:
                    _flush(writer, names, block)
                    names, block = [], []
        _flush(writer, names, block)
        return Shape(row, len(self._header), writer.n_values, "rows")

    def _no_row(self, row: int, name: str, rest: bytes, found: tuple[int, int]) -> Exception:
        fields, bad = found
        where = f"{self.path}: line {row + 2:,} ({name})"
        if bad >= 0:
            text = printable(rest[bad:].split(self._separator)[0], 40)
            column = self._header[fields] if fields < len(self._header) else f"number {fields + 1}"
            what = f"{text!r} in column {column} is no number"
            return refuse("D003", what, where=where, fix=self._mended(text, first=row == 0 and fields == 0))
        return refuse("D003", f"the line has {fields:,} values, the header {len(self._header):,} names", where=where)

    def _mended(self, text: str, *, first: bool) -> str:
        """The command that writes the table without what is no number, where that is plain."""
        if re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+", text):
            parted = self._rewritten("tr -d ,")
            return f"where the comma parts thousands (where it is the decimal sign, with tr , . instead): {parted}"
        if re.fullmatch(r"-?\d+,\d+", text):
            points = self._rewritten("tr , .")
            return f"where the comma is the decimal sign: {points}"
        if first and not text[:1].isdigit():
            cut = f"cut -d {shlex.quote(self._separator.decode())} -f 2 --complement"
            return f"take that column out: {self._rewritten(cut)}"
        return "leave only names and counts in the table; keep other columns (cell types, symbols) apart"

    def _rewritten(self, program: str) -> str:
        name = self.path.name.removesuffix(".gz")
        out = self.path.with_name(f"{Path(name).stem}.counts{Path(name).suffix}")
        cat = "zcat" if self.path.name.endswith(".gz") else "cat"
        return f"{cat} {shlex.quote(str(self.path))} | {program} > {shlex.quote(str(out))}"


def _flush(writer: SpoolWriter, names: list[bytes], block: list[tuple[int, Array, Array]]) -> None:
    if not names:
        return
    rows = np.concatenate([np.full(len(values), row, np.int32) for row, _, values in block])
    columns = np.concatenate([columns for _, columns, _ in block])
    writer.put(Triples(rows, columns, np.concatenate([values for _, _, values in block])))
    writer.put_names("rows", names)


def _lines(file: Any) -> Iterator[bytes]:
    return (line for raw in file if (line := raw.rstrip(b"\r\n")))


def _fields(line: bytes, separator: bytes) -> list[str]:
    text = line.decode("utf-8-sig", "replace")
    return [field.strip() for field in next(csv.reader([text], delimiter=separator.decode()), [])]


def _share(test: Callable[[str], object], names: list[str]) -> float:
    """Share of the names that pass a test."""
    known = [name for name in names if name]
    return sum(bool(test(name)) for name in known) / max(1, len(known))


def _repeated_numbers(names: list[str]) -> bool:
    """Whether names are numbers that repeat, which numbered cells or genes do not."""
    return len(set(names)) < len(names) and all(_NUMBER.fullmatch(name) for name in names)
