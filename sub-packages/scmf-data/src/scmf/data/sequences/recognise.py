"""Whether sources are sequences. In: paths and what the user says. Out: text, ready tokens, or cells.

Text is what `--tokenizer char` says is text; without the flag, a file named as text (.txt, .text, .md) whose first
lines are not the rows of a table. A parquet table with a column of token ids is ready tokens. All else is counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from scmf.data.ingest.findings import missing, refuse
from scmf.data.ingest.text_file import first_bytes, is_blank_table
from scmf.data.sequences.token_table import is_token_table

Sort = Literal["text", "tokens", "cells"]

SUFFIXES: Final = (".txt", ".text", ".md", ".txt.gz", ".text.gz")
_WORDS: Final = {"text": "text", "tokens": "a table of ready tokens", "cells": "counts of cells"}
_SEPARATORS: Final = (b"\t", b",", b";")


def sort_of(sources: Sequence[Path], *, as_text: bool) -> Sort:
    """What the sources of one conversion are.

    Args:
        sources: files or folders.
        as_text: the user says that they are text.

    Raises:
        InputError: D069 they are of several kinds; D001 no such file.
    """
    for path in sources:
        if not path.exists():
            raise missing(path)
    if as_text:
        folder = next((path for path in sources if path.is_dir()), None)
        if folder is not None:
            raise refuse("D001", "a folder is no text", where=str(folder), fix="name the text files in it")
        return "text"
    sorts = [_sort(path) for path in sources]
    if len(set(sorts)) > 1:
        found = ", ".join(f"{path.name} is {_WORDS[sort]}" for path, sort in zip(sources[:4], sorts, strict=False))
        raise refuse("D069", f"sources of several kinds: {found}", where=", ".join(map(str, sources[:4])))
    return sorts[0]


def _sort(path: Path) -> Sort:
    if path.is_dir():
        return "cells"
    if not path.is_file():
        return "cells"  # a pipe or device, whose reader says what to do about it
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PAR1":
        return "tokens" if _has_tokens(path) else "cells"
    if not path.name.lower().endswith(SUFFIXES) or is_blank_table(path):
        return "cells"
    return "text" if _reads_as_text(first_bytes(path)) else "cells"


def _has_tokens(path: Path) -> bool:
    try:
        return is_token_table(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return False  # the reader of counts says what is wrong with the file


def _reads_as_text(head: bytes) -> bool:
    """Neither binary, nor the mark of another format, nor rows with the same number of separators."""
    if b"\x00" in head or head.startswith((b"%", b"{", b"<", b"version https://git-lfs")):
        return False
    if not head:
        return False
    lines = [line for line in re.split(rb"\r?\n", head) if line.strip()][:3]
    if len(lines) < 2:
        return True  # a table has names and numbers
    return all(len({line.count(mark) for line in lines}) > 1 or mark not in lines[0] for mark in _SEPARATORS)
