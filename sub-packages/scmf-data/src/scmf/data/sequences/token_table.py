"""A parquet table of ready tokens. In: the file and its vocabulary. Out: sequences in batches, every id checked.

Columns: `input_ids`, a list of integers a row; `length`, where it is there, must agree. Other columns are not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from scmf.core.errors import InputError
from scmf.data.any_vocabulary import AnyVocabulary, roles_of
from scmf.data.ingest.findings import refuse
from scmf.data.ingest.source import first_line

LongArray = npt.NDArray[np.int64]

IDS: Final = ("input_ids", "tokens")
"""Names under which tables hold their tokens."""
LENGTH: Final = "length"
ROWS: Final = 1024
"""Rows read at a time: 16 MB at 2,048 tokens of 8 bytes."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Some rows of a table."""

    ids: LongArray
    """(tokens,) int64, row after row."""
    lengths: LongArray
    """(rows,) int64."""


class TokenTable:
    """A table of ready tokens, open."""

    def __init__(self, path: Path) -> None:
        """Read the schema.

        Args:
            path: the file.

        Raises:
            InputError: D016 it cannot be read; D068 it has no column of lists of integers.
        """
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise refuse("D016", f"the parquet file cannot be read: {first_line(error)}", where=str(path)) from error
        schema = self._file.schema_arrow
        column = next((name for name in IDS if name in schema.names), None)
        if column is None:
            names = ", ".join(schema.names[:6]) or "none"
            raise self._fault(f"no column {' or '.join(IDS)}; the table has {names}")
        kind = schema.field(column).type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not lists or not pa.types.is_integer(kind.value_type):
            raise self._fault(f"column {column} is {kind}, not a list of integers a row")
        self.column = column
        self.has_length = LENGTH in schema.names
        self.other_columns = tuple(name for name in schema.names if name not in (column, LENGTH))
        self.n_rows: int = self._file.metadata.num_rows

    def rows(self, vocabulary: AnyVocabulary) -> Iterator[TokenRows]:
        """The rows in batches, in order.

        Args:
            vocabulary: what the ids mean.

        Raises:
            InputError: D016 a damaged file; D068 an id outside the vocabulary, a special token that hides or pads, a
                row without tokens, or a length that does not agree.
        """
        columns = [self.column, *([LENGTH] if self.has_length else [])]
        first = 0
        try:
            for batch in self._file.iter_batches(batch_size=ROWS, columns=columns):
                yield self._checked(batch, first, vocabulary)
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise refuse("D016", f"the table breaks off: {first_line(error)}", where=str(self.path)) from error

    def _checked(self, batch: pa.RecordBatch, first: int, vocabulary: AnyVocabulary) -> TokenRows:
        lists = batch.column(self.column)
        if lists.null_count or lists.flatten().null_count:
            raise self._fault(f"column {self.column} has missing values between rows {first:,} and {first + ROWS:,}")
        ids = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        lengths = np.diff(lists.offsets.to_numpy()).astype(np.int64)
        if (lengths == 0).any():
            raise self._fault(f"row {first + int((lengths == 0).argmax()):,} has no tokens")
        self._check_ids(ids, lengths, first, vocabulary)
        if self.has_length:
            self._check_lengths(batch.column(LENGTH), lengths, first)
        return TokenRows(ids, lengths)

    def _check_ids(self, ids: LongArray, lengths: LongArray, first: int, vocabulary: AnyVocabulary) -> None:
        roles = roles_of(vocabulary)
        faults = (
            ((ids < 0) | (ids >= roles.size), f"is outside the {roles.size:,} ids of {vocabulary.name}", ""),
            (ids == roles.pad, "is <pad>: the rows are padded", "take the padding off: rows of their real length"),
            (ids == roles.mask, "is <mask>: the tokens are hidden already", "write the tokens as they were before"),
        )
        for bad, what, fix in faults:
            if bad.any():
                at = int(bad.argmax())
                row = first + int(np.searchsorted(np.cumsum(lengths), at, side="right"))
                raise self._fault(f"id {int(ids[at])} in row {row:,} {what}", fix)

    def _check_lengths(self, column: pa.Array, lengths: LongArray, first: int) -> None:
        told = column.to_numpy(zero_copy_only=False)
        if (told != lengths).any():
            row = int((told != lengths).argmax())
            raise self._fault(
                f"row {first + row:,} has {lengths[row]:,} tokens, and column {LENGTH} says {told[row]}",
                "write the table again: a column that disagrees with its rows is a sign of damage",
            )

    def _fault(self, what: str, fix: str = "") -> InputError:
        usual = f"name the vocabulary that made the ids: scmf-store convert {quote(str(self.path))} --vocabulary NAME"
        return refuse("D068", what, where=str(self.path), fix=fix or usual)


def is_token_table(columns: Any) -> bool:
    """Whether columns of these names are a table of ready tokens."""
    return bool(set(IDS) & set(columns))
