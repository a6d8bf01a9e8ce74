"""Every cell of a store as tokens, in one parquet file. In: a store and a tokenizer. Out: the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scmf.core.errors import StoreError
from scmf.data.rank import RankTokenizer
from scmf.data.store import CellStore

ROW_GROUP: Final = 4096
"""Cells encoded and written at a time; memory does not depend on the store's size."""

SCHEMA: Final = pa.schema(
    [
        pa.field("cell_id", pa.int64(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
    ]
)


def write_tokens(store: CellStore, tokenizer: RankTokenizer, out: Path, *, on_cells: Callable[[int], None]) -> int:
    """Write `cell_id`, `length` and `input_ids` of every cell, in the order of the store.

    The file's metadata names the store and the vocabulary by fingerprint. It is written aside and renamed.

    Returns:
        Tokens written.

    Raises:
        StoreError: the file exists.
    """
    check_output(out)
    vocabulary = tokenizer.vocabulary
    facts = {
        "scmf.store": store.fingerprint,
        "scmf.vocabulary": f"{vocabulary.name} {vocabulary.fingerprint}",
        "scmf.seq_length": str(tokenizer.seq_length),
    }
    aside = out.with_name(f".{out.name}.partial")
    tokens = 0
    try:
        # Opened by Python, whose errors name the file.
        with (
            aside.open("wb") as file,
            pq.ParquetWriter(file, SCHEMA.with_metadata(facts), compression="zstd") as writer,
        ):
            for start in range(0, len(store), ROW_GROUP):
                ids = np.arange(start, min(start + ROW_GROUP, len(store)), dtype=np.int64)
                table = _row_group(store, tokenizer, ids)
                writer.write_table(table)
                tokens += int(np.sum(table["length"].to_numpy()))
                on_cells(len(ids))
        aside.rename(out)
    finally:
        aside.unlink(missing_ok=True)
    return tokens


def check_output(out: Path) -> None:
    """Refuse a file that cannot be made, or that would not be what its name says."""
    if out.suffix != ".parquet":
        suffix = out.suffix or "no suffix"
        raise StoreError(
            f"tokens are written as parquet, and the name has {suffix}",
            where=str(out),
            fix=f"name it --out {quote(str(out.with_suffix('.parquet')))}",
        )
    if out.is_dir():
        raise StoreError("the output is a folder", where=str(out), fix="name a file that does not exist")
    if out.exists():
        raise StoreError("the output file exists", where=str(out), fix="name another --out")
    if not out.parent.is_dir():
        raise StoreError("there is no such folder", where=str(out.parent), fix=f"mkdir -p {quote(str(out.parent))}")


def _row_group(store: CellStore, tokenizer: RankTokenizer, ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Table:
    tokens = tokenizer.encode(store, ids)
    lists = pa.ListArray.from_arrays(pa.array(tokens.offsets.astype(np.int32)), pa.array(tokens.ids))
    columns = [pa.array(ids), pa.array(tokens.lengths.astype(np.int32)), lists]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
