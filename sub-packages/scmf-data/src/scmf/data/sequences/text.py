"""Text files, read as characters. In: UTF-8, plain or gzip. Out: code points in blocks, or the first wrong byte.

Bounded memory: a block of bytes at a time, whatever the file's size.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from scmf.core.errors import StoreError
from scmf.data.characters import codes_of
from scmf.data.ingest.findings import refuse
from scmf.data.ingest.text_file import open_text

CodeArray = npt.NDArray[np.uint32]

BLOCK: Final = 1 << 22
"""Bytes decoded at a time."""
_LAST_CODE: Final = 0x10FFFF
_MARKS: Final = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}


@dataclass(frozen=True, slots=True)
class Survey:
    """What the first look at a text has found."""

    path: Path
    n_characters: int
    characters: frozenset[str]
    checksum: str
    """xxh3-128 of the text's bytes, unpacked."""
    byte_order_mark: bool


def survey_text(path: Path, *, on_bytes: Callable[[int], None] = lambda _: None) -> Survey:
    """Read a text once: how long it is, and which characters it has.

    Args:
        path: the file.
        on_bytes: called with the bytes, unpacked, just read.

    Raises:
        InputError: D066 a byte that is no UTF-8; D067 no character at all.
    """
    seen, n, mark = np.zeros(_LAST_CODE + 1, np.bool_), 0, False
    digest = xxhash.xxh3_128()
    for block in _decoded(path, digest):
        codes = codes_of(block.text)
        mark = mark or block.byte_order_mark
        seen[codes] = True
        n += len(codes)
        on_bytes(block.n_bytes)
    if n == 0:
        raise refuse("D067", "the text has no characters", where=str(path))
    return Survey(path, n, frozenset(map(chr, np.flatnonzero(seen).tolist())), digest.hexdigest(), mark)


def read_codes(survey: Survey) -> Iterator[CodeArray]:
    """The code points of a text that has been looked at, block by block. (k,) uint32.

    Raises:
        StoreError: the file is not what it was at the first look.
    """
    digest = xxhash.xxh3_128()
    for block in _decoded(survey.path, digest):
        yield codes_of(block.text)
    if digest.hexdigest() != survey.checksum:
        raise changed(survey.path)


def changed(path: Path) -> StoreError:
    """The error about a file that is not what it was at the first look."""
    return StoreError(
        "a source was written to while it was read",
        where=str(path),
        fix="wait until it is finished, then run the same command again",
    )


@dataclass(frozen=True, slots=True)
class _Block:
    text: str
    n_bytes: int
    byte_order_mark: bool = False


def _decoded(path: Path, digest: xxhash.xxh3_128) -> Iterator[_Block]:
    """The text in blocks; a character is never cut, and a byte order mark is left out."""
    waiting, offset = b"", 0
    with open_text(path) as file:
        while chunk := file.read(BLOCK):
            digest.update(chunk)
            data = waiting + chunk
            text, used = _decode(data, path, offset, final=False)
            marked = offset == 0 and text.startswith("\ufeff")
            yield _Block(text[1:] if marked else text, used, marked)
            waiting, offset = data[used:], offset + used
    text, used = _decode(waiting, path, offset, final=True)
    yield _Block(text, used)


def _decode(data: bytes, path: Path, offset: int, *, final: bool) -> tuple[str, int]:
    """Text, and how many bytes of the data it took."""
    try:
        return codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        at = offset + error.start
        kind = next((name for mark, name in _MARKS.items() if at == 0 and data.startswith(mark)), None)
        found = f"it is {kind}" if kind else f"byte 0x{data[error.start]:02x} at offset {at:,} ({error.reason})"
        fix = f"iconv -f {kind or 'LATIN1'} -t UTF-8 {quote(str(path))} > {quote(path.stem + '.utf8.txt')}"
        if kind is None:
            fix += ", with the encoding that the text has in place of LATIN1"
        raise refuse("D066", f"the text is not valid UTF-8: {found}", where=str(path), fix=fix) from error
