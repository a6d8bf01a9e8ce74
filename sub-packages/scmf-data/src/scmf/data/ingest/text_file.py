"""Text files, plain or gzip. In: a path. Out: bytes, or a refusal that says where the file breaks off."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from scmf.data.ingest.findings import refuse
from scmf.data.ingest.source import first_line

_GZIP: Final = b"\x1f\x8b"
_CHUNK: Final = 1 << 16
_WIDE: Final = 1 << 20
"""Bytes in which a header and a row of most tables are found."""
_WORD: Final = re.compile(rb'"[^"]*"|[^\s"]+')
_NUMBER: Final = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|NA")


@contextmanager
def open_text(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a text file, unpacked; InputError D016 where the packing is broken."""
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == _GZIP
            plain.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=plain) as file:
                    yield file  # type: ignore[misc]  # a binary stream in all but its base class
            else:
                yield plain
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        what = f"the gzip file is cut short or damaged: {first_line(error)}"
        raise refuse("D016", what, where=str(path)) from error


def first_bytes(path: Path, n: int = 4096) -> bytes:
    """The first bytes of a file, unpacked; b"" for a gzip file that is damaged from its start."""
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == _GZIP
            plain.seek(0)
            head = plain.read(n)
        # Not gzip's own reader: of a file that is cut short it gives nothing, where its start is sound.
        return zlib.decompressobj(wbits=31).decompress(head, n) if packed else head
    except zlib.error:
        return b""


def printable(text: bytes, most: int = 60) -> str:
    """The beginning of a text from a file for a message: one line, whatever the bytes are."""
    return "".join(c if c.isprintable() else "?" for c in text[:most].decode("utf-8", "replace"))


def separator_of(line: bytes) -> bytes:
    """What separates the fields of a line: a tab, else the more frequent of comma and semicolon."""
    if b"\t" in line:
        return b"\t"
    return b";" if line.count(b";") > line.count(b",") else b","


def is_blank_table(path: Path) -> bool:
    """Whether the first rows are a name and numbers with blanks between them, as R's `write.table` leaves them."""
    lines = first_bytes(path, _WIDE).split(b"\n")[:4]
    if len(lines) < 3 or any(mark in lines[0] for mark in (b"\t", b",", b";")):
        return False
    header, *rows = [_WORD.findall(line) for line in lines[:-1]]  # the last may be cut
    width = len(rows[0])
    return (
        width > 1
        and len(header) in {width - 1, width}
        and all(len(row) == width and all(map(_NUMBER.fullmatch, row[1:])) for row in rows)
    )


def read_columns(path: Path) -> list[npt.NDArray[Any]]:
    """All columns of a small table of names, its header (if any) included.

    Args:
        path: a .tsv, .csv or .txt file, plain or gzip.

    Returns:
        A bytes array for each column; short rows are filled with "". Compact: a million barcodes take 18 MB.
    """
    try:
        return _read_columns(path)
    except csv.Error as error:
        raise refuse("D003", f"the names cannot be read: {error}", where=str(path)) from error


def _read_columns(path: Path) -> list[npt.NDArray[Any]]:
    pieces: list[list[npt.NDArray[Any]]] = []
    with open_text(path) as raw:
        delimiter = separator_of(first_bytes(path).split(b"\n", 1)[0]).decode()
        rows = csv.reader(io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline=""), delimiter=delimiter)
        chunk: list[list[str]] = []
        for row in rows:
            if row:
                chunk.append(row)
            if len(chunk) == _CHUNK:
                _append(pieces, chunk)
                chunk = []
        _append(pieces, chunk)
    return [np.concatenate(column) for column in pieces]


def _append(pieces: list[list[npt.NDArray[Any]]], chunk: list[list[str]]) -> None:
    if not chunk:
        return
    while len(pieces) < len(chunk[0]):
        pieces.append([])
    for k, column in enumerate(pieces):
        column.append(np.array([row[k].strip().encode() if k < len(row) else b"" for row in chunk], dtype="S"))
