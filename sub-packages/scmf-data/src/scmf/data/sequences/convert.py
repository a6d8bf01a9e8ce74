"""Conversion to a store of sequences. In: text files, or tables of ready tokens. Out: the store, or nothing."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from scmf.core.errors import StoreError, lasting_path
from scmf.core.text import counted
from scmf.data.any_vocabulary import AnyVocabulary
from scmf.data.characters import CharVocabulary
from scmf.data.manifest import describe_file
from scmf.data.progress import Progress
from scmf.data.sequences.manifest import SequenceManifest, SequenceSource, ids_dtype
from scmf.data.sequences.text import Survey, changed, read_codes, survey_text
from scmf.data.sequences.token_table import TokenTable
from scmf.data.sequences.writer import TOKENS_A_PART, SequenceWriter
from scmf.data.store_writer import check_destination

Log = Callable[[str], None]

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class SequenceWishes:
    """What the user says about a conversion."""

    overwrite: bool = False
    """Replace the store at the destination when the new one is whole."""
    skip_space_check: bool = False
    """Start although the disk seems too small."""
    tokens_a_part: int = TOKENS_A_PART


PLAIN: Final = SequenceWishes()


def convert_text(sources: Sequence[Path], dest: Path, wishes: SequenceWishes = PLAIN, *, log: Log) -> SequenceManifest:
    """Convert text files to one store of characters; each file is a sequence.

    Every file is read twice, in blocks: once for its characters, once for their tokens.

    Args:
        sources: the files, UTF-8, in the order of their sequences.
        dest: folder to make.
        wishes: of the user.
        log: takes one line for people.

    Raises:
        InputError: a text that is refused, with its number. Nothing is left behind.
        StoreError: a destination in use, a disk that is full, or a file that changes while it is read.
    """
    _check_destination(dest, wishes)
    n_bytes = sum(path.stat().st_size for path in sources)
    with Progress("looking at the text", n_bytes, unit="bytes") as progress:
        surveys = [_look_at(path, progress) for path in sources]
    vocabulary = CharVocabulary.of("".join(sorted(frozenset().union(*(s.characters for s in surveys)))))
    n_tokens = sum(s.n_characters for s in surveys)
    for survey in surveys:
        mark = "; its byte order mark is left out" if survey.byte_order_mark else ""
        log(f"{survey.path}: text, {survey.n_characters:,} characters, {len(survey.characters):,} different{mark}")
    log(f"vocabulary {vocabulary.name}: {len(vocabulary):,} tokens, special ones included")
    _check_space(dest, n_tokens, vocabulary, wishes)
    with _writing(dest, vocabulary, "text", wishes) as writer:
        with Progress("converting", n_tokens, unit="characters") as progress:
            kept = tuple(_write_text(writer, survey, progress) for survey in surveys)
        return writer.finish(kept)


def convert_tokens(
    sources: Sequence[Path],
    dest: Path,
    vocabulary: AnyVocabulary,
    wishes: SequenceWishes = PLAIN,
    *,
    log: Log,
) -> SequenceManifest:
    """Convert parquet tables of ready tokens to one store; each row is a sequence.

    Args:
        sources: the tables, in the order of their sequences.
        dest: folder to make.
        vocabulary: what the ids mean; it travels with the store.
        wishes: of the user.
        log: takes one line for people.

    Raises:
        InputError: a table that is refused, with its number. Nothing is left behind.
        StoreError: a destination in use, or a disk that is full.
    """
    _check_destination(dest, wishes)
    tables = [TokenTable(path) for path in sources]
    for table in tables:
        left = f"; not kept: {', '.join(table.other_columns)}" if table.other_columns else ""
        log(f"{table.path}: ready tokens, {counted(table.n_rows, 'row')}, column {table.column}{left}")
    n_rows = sum(table.n_rows for table in tables)
    with _writing(dest, vocabulary, "tokens", wishes) as writer:
        with Progress("converting", n_rows, unit="rows") as progress:
            kept = tuple(_write_table(writer, table, vocabulary, progress) for table in tables)
        return writer.finish(kept)


@contextmanager
def _writing(dest: Path, vocabulary: AnyVocabulary, content: str, wishes: SequenceWishes) -> Iterator[SequenceWriter]:
    """A writer; where the disk is full, the error says so."""
    try:
        with SequenceWriter(
            dest,
            vocabulary,
            content="text" if content == "text" else "tokens",
            overwrite=wishes.overwrite,
            tokens_a_part=wishes.tokens_a_part,
        ) as writer:
            yield writer
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StoreError(
            f"the store could not be written: {error.strerror}",
            where=lasting_path(str(error.filename or dest)),
            fix="free space on that disk, then run the same command again, or name another --dest; nothing was left",
        ) from error


def _look_at(path: Path, progress: Progress) -> Survey:
    """The first reading of a file, noted in bytes of the disk; a packed file has more."""
    left = path.stat().st_size

    def note(n: int) -> None:
        nonlocal left
        progress.advance(min(n, left))
        left -= min(n, left)

    survey = survey_text(path, on_bytes=note)
    progress.advance(left)
    return survey


def _write_text(writer: SequenceWriter, survey: Survey, progress: Progress) -> SequenceSource:
    vocabulary = writer.vocabulary
    if not isinstance(vocabulary, CharVocabulary):  # a text is written with the vocabulary that was made of it
        raise TypeError(f"text with vocabulary {vocabulary.name}")
    first, before = writer.n_sequences, writer.n_tokens
    for codes in read_codes(survey):
        ids = vocabulary.ids_of(codes)
        if (ids < 0).any():
            raise changed(survey.path)
        writer.append(ids)
        progress.advance(len(codes))
    writer.end_sequence()
    return _source(writer, survey.path, first, before, byte_order_mark=survey.byte_order_mark)


def _write_table(
    writer: SequenceWriter, table: TokenTable, vocabulary: AnyVocabulary, progress: Progress
) -> SequenceSource:
    first, before = writer.n_sequences, writer.n_tokens
    for rows in table.rows(vocabulary):
        writer.append_whole(rows.ids, rows.lengths)
        progress.advance(len(rows.lengths))
    return _source(writer, table.path, first, before)


def _source(
    writer: SequenceWriter, path: Path, first: int, before: int, *, byte_order_mark: bool = False
) -> SequenceSource:
    file = describe_file(path)
    return SequenceSource(
        name=path.name,
        bytes=file.bytes,
        checksum=file.checksum,
        first_sequence=first,
        n_sequences=writer.n_sequences - first,
        n_tokens=writer.n_tokens - before,
        byte_order_mark=byte_order_mark,
    )


def _check_destination(dest: Path, wishes: SequenceWishes) -> None:
    """Refuse a destination in use before minutes are spent."""
    way_out = "add --overwrite to replace it, or name another --dest"
    check_destination(dest, overwrite=wishes.overwrite, way_out=way_out)


def _check_space(dest: Path, n_tokens: int, vocabulary: AnyVocabulary, wishes: SequenceWishes) -> None:
    """Refuse at once what the disk cannot hold."""
    if wishes.skip_space_check:
        return
    there = next(folder for folder in (dest.absolute(), *dest.absolute().parents) if folder.is_dir())
    needed, free = n_tokens * np.dtype(ids_dtype(len(vocabulary))).itemsize, shutil.disk_usage(there).free
    if needed > free:
        raise StoreError(
            f"the store takes about {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free",
            where=str(there),
            fix="free space, name a --dest on another disk, or add --skip-space-check",
        )
