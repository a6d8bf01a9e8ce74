"""Parquet artefacts that scmf ships: a table, a JSON header, a fingerprint. In: a path. Out: both, read and checked.

The header is under one schema key of the file. The fingerprint is a SHA-256 over the schema, the facts of the
header and the rows; it is computed again whenever the file is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from scmf.core.errors import VocabularyError

HEADER: Final = b"scmf-artefact"
Built = TypeVar("Built")


class Origin(NamedTuple):
    """Where a file comes from, and how to get it again."""

    what: str
    fix: str


SHIPPED: Final = Origin(
    "a table that scmf ships",
    "install scmf-data again: pip install --force-reinstall --no-deps scmf-data",
)


def write_artefact(path: Path, table: pa.Table, header: Mapping[str, Any]) -> None:
    """Write table and header as one file; an older one is replaced as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    whole = table.replace_schema_metadata({HEADER: json.dumps(dict(header)).encode()})
    try:
        # Ids rise along the rows: what each shares with the one before is not stored twice.
        ids = [f.name for f in table.schema if f.type == pa.string()]
        encoding = dict.fromkeys(ids, "DELTA_BYTE_ARRAY")
        others = [f.name for f in table.schema if f.name not in ids]
        with unfinished.open("wb") as file:  # opened by Python, whose errors name the file
            pq.write_table(
                whole, file, compression="zstd", compression_level=19, use_dictionary=others, column_encoding=encoding
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_artefact(
    path: Path,
    build: Callable[[Mapping[str, list[Any]], Mapping[str, Any]], Built],
    *,
    schema: str,
    origin: Origin = SHIPPED,
) -> Built:
    """Read a file and build an object of it.

    Args:
        path: the parquet file.
        build: takes the columns and the header; the object has a `fingerprint`. A KeyError, TypeError or
            ValueError of it means that rows and header do not fit.
        schema: what the header has to call itself.
        origin: of the file, for messages.

    Raises:
        VocabularyError: the file is missing, damaged, or not as written.
    """
    if not path.is_file():
        raise _damaged(path, "it is missing", origin)
    try:
        table = pq.read_table(path)
        header = _header(table, schema)
        built = build({name: _values(table.column(name)) for name in table.column_names}, header)
        recorded = header["fingerprint"]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _damaged(path, f"it cannot be read ({reason})", origin) from error
    found = getattr(built, "fingerprint", None)
    if found != recorded:
        raise _damaged(path, f"its content has fingerprint {found}, its header says {recorded}", origin)
    return built


def fingerprint_of(*facts: Any) -> str:
    """`sha256:...` of values that JSON can write."""
    return f"sha256:{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}"


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The column as Python values; of repeated texts each is made once."""
    if not pa.types.is_dictionary(column.type):
        values: list[Any] = column.to_pylist()
        return values
    column = column.combine_chunks()
    texts, places = column.dictionary.to_pylist(), column.indices.to_pylist()
    return [None if place is None else texts[place] for place in places]


def _header(table: pa.Table, schema: str) -> dict[str, Any]:
    header: dict[str, Any] = json.loads((table.schema.metadata or {})[HEADER])
    if header["schema"] != schema:
        raise ValueError(f"schema {header['schema']}, not {schema}")
    return header


def _damaged(path: Path, reason: str, origin: Origin) -> VocabularyError:
    return VocabularyError(f"{origin.what} is not intact: {reason}", where=str(path), fix=origin.fix)
