"""A user's own table of names. In: a CSV or TSV file with the columns name and id. Out: id by name, checked.

For what no shipped table knows: previous symbols of mouse, numbers of NCBI, names of a panel, other species.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scmf.core.errors import InputError
from scmf.core.text import counted
from scmf.data.ensembl import ENSEMBL


@dataclass(frozen=True, slots=True)
class NameTable:
    """Names and the ids that they mean."""

    ids: Mapping[str, str]
    """Ensembl id without version of each name; "" for a name whose column is to be dropped."""
    origin: str
    """File name and SHA-256 of its bytes, for the manifest."""


def read_name_table(path: Path) -> NameTable:
    """Read and check a table; `.tsv` and `.txt` files have tabs, others commas.

    Raises:
        InputError: no such file, no columns `name` and `id`, ids that are not Ensembl's, or a name with two ids.
    """
    if not path.is_file():
        raise _fault("there is no such file", path, fix="check the path")
    raw = path.read_bytes()
    rows = _rows(raw, path)
    ids: dict[str, str] = {}
    for line, (name, gene) in enumerate(rows, 2):
        match = ENSEMBL.match(gene)
        if gene and match is None:
            raise _fault(
                f"line {line}: {gene!r} is no Ensembl gene id", path, fix="leave the id empty to drop the name"
            )
        bare = match.group(1) if match else ""
        if ids.setdefault(name, bare) != bare:
            what = f"line {line}: {name!r} means {bare or 'nothing'} here and {ids[name] or 'nothing'} above"
            raise _fault(what, path, fix="keep one of the two lines")
    if not ids:
        raise _fault("it has no names", path, fix="write a line for each name, below the heading name,id")
    return NameTable(ids, f"{path.name} sha256:{hashlib.sha256(raw).hexdigest()}")


def _rows(raw: bytes, path: Path) -> list[tuple[str, str]]:
    """(name, id) of each line below the heading."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fault(f"byte {error.start:,} is no UTF-8", path, fix="save it as CSV in UTF-8") from error
    lines = csv.reader(text.splitlines(), delimiter="\t" if path.suffix.lower() in {".tsv", ".txt"} else ",")
    try:
        heading = [column.strip().lower() for column in next(lines, [])]
        if not {"name", "id"} <= set(heading):
            what = f"its columns are {', '.join(heading) or 'none'}; it needs name and id"
            raise _fault(what, path, fix="make the first line: name,id")
        at = heading.index("name"), heading.index("id")
        rows = [row for row in lines if any(field.strip() for field in row)]
    except csv.Error as error:
        raise _fault(f"line {lines.line_num}: {error}", path, fix="save it as plain CSV") from error
    short = next((row for row in rows if len(row) <= max(at)), None)
    if short is not None:
        what = f"a line has {counted(len(short), 'field')}: {','.join(short)}"
        raise _fault(what, path, fix="give every line a name and an id")
    return [(row[at[0]].strip(), row[at[1]].strip()) for row in rows]


def _fault(what: str, path: Path, *, fix: str) -> InputError:
    return InputError(f"the table of names cannot be used: {what}", where=str(path), fix=fix)
