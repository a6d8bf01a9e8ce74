"""A vocabulary of characters. In: text. Out: one token a character, and text again.

An artefact: one parquet file that is made of the text at its conversion and travels with the store, the run and every
checkpoint. Ids are dense: the special tokens come first, then the characters by code point.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scmf.core.errors import VocabularyError
from scmf.data.artefact import Origin, fingerprint_of, read_artefact, write_artefact
from scmf.data.config_tokenizer import CHARACTER_SPECIALS

SCHEMA: Final = "scmf-characters/1"
ORIGIN: Final = Origin(
    "a vocabulary of characters",
    "copy the file again from the store, the run or the checkpoint that it belongs to, or convert the text again",
)

IntArray = npt.NDArray[np.int32]
CodeArray = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class CharVocabulary:
    """Which character has which token."""

    characters: str
    """Every character once, by code point; the token of the first is `first`."""
    fingerprint: str = field(init=False)
    """Hash of the characters; two vocabularies with one fingerprint give equal tokens."""

    def __post_init__(self) -> None:
        if not self.characters or list(self.characters) != sorted(set(self.characters)):
            raise VocabularyError(
                f"{len(self.characters):,} characters, which do not rise, repeat, or are none",
                where="a vocabulary of characters",
                fix="make it with CharVocabulary.of(text)",
            )
        object.__setattr__(self, "fingerprint", fingerprint_of(SCHEMA, CHARACTER_SPECIALS, self.characters))

    @classmethod
    def of(cls, text: Iterable[str]) -> Self:
        """The vocabulary of a text, or of characters in any order."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        """Number of token ids, special tokens included: the model's vocabulary size."""
        return len(self.specials) + len(self.characters)

    @property
    def name(self) -> str:
        """What it is called in messages, after the number of its characters."""
        return f"char-{len(self.characters)}"

    @property
    def specials(self) -> tuple[str, ...]:
        """Special tokens in the order of their ids."""
        return CHARACTER_SPECIALS

    @property
    def first(self) -> int:
        """Id of the first character; every id from here to the end is one."""
        return len(self.specials)

    @property
    def pad(self) -> int:
        """Id of <pad>."""
        return self.specials.index("<pad>")

    @property
    def mask(self) -> int:
        """Id of <mask>."""
        return self.specials.index("<mask>")

    @property
    def bos(self) -> int:
        """Id of <bos>, which stands before the first character of a text."""
        return self.specials.index("<bos>")

    def encode(self, text: str) -> IntArray:
        """Token of each character. (len(text),) int32.

        Raises:
            VocabularyError: a character that the vocabulary does not have, with its offset.
        """
        codes = codes_of(text)
        ids = self.ids_of(codes)
        unknown = ids < 0
        if unknown.any():
            raise self.unknown(text[int(unknown.argmax())], offset=int(unknown.argmax()), where="the text")
        return ids

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of token ids; special tokens have none.

        Args:
            ids: (n,) integers.

        Raises:
            VocabularyError: an id outside the vocabulary.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            bad = int(ids[(ids < 0) | (ids >= len(self))][0])
            raise VocabularyError(
                f"id {bad} is outside the vocabulary's {len(self)} ids",
                where=f"vocabulary {self.name}",
                fix="decode with the vocabulary that made the ids: it lies beside the checkpoint",
            )
        text: str = self._codes[ids[ids >= self.first] - self.first].tobytes().decode("utf-32-le")
        return text

    def ids_of(self, codes: CodeArray) -> IntArray:
        """Token of each code point, -1 where there is none. (n,) int32."""
        table = self._table
        return table[np.minimum(codes, np.uint32(len(table) - 1))]

    def unknown(self, character: str, *, offset: int, where: str) -> VocabularyError:
        """The error about a character that has no token.

        Args:
            character: the one.
            offset: characters before it.
            where: what it was found in.
        """
        name = unicodedata.name(character, "")
        return VocabularyError(
            f"character {character!r} (U+{ord(character):04X}{f' {name}' if name else ''}) at offset {offset:,} has no "
            f"token: the text that the vocabulary was made of does not contain it",
            where=f"{where}, with vocabulary {self.name}",
            fix="leave it out or write it otherwise, or train on text that contains it",
        )

    @cached_property
    def _codes(self) -> CodeArray:
        return codes_of(self.characters)

    @cached_property
    def _table(self) -> IntArray:
        """Token of every code point up to one behind the highest, -1 where there is none."""
        table = np.full(int(self._codes[-1]) + 2, -1, np.int32)
        table[self._codes] = np.arange(len(self._codes), dtype=np.int32) + self.first
        return table

    def save(self, path: str | Path) -> None:
        """Write the one file that `load` reads; an older one is replaced as a whole or not at all."""
        tokens = [*self.specials, *self.characters]
        columns = {"id": pa.array(range(len(tokens)), pa.int32()), "token": pa.array(tokens, pa.string())}
        header = {"schema": SCHEMA, "name": self.name, "fingerprint": self.fingerprint}
        write_artefact(Path(path), pa.table(columns), header)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and check a vocabulary file.

        Raises:
            VocabularyError: the file is missing, no vocabulary of characters, or not as written.
        """
        return read_artefact(Path(path), cls._build, schema=SCHEMA, origin=ORIGIN)

    @classmethod
    def _build(cls, columns: Mapping[str, list[Any]], header: Mapping[str, Any]) -> Self:
        del header
        n, tokens = len(CHARACTER_SPECIALS), columns["token"]
        if tuple(tokens[:n]) != CHARACTER_SPECIALS or columns["id"] != list(range(len(tokens))):
            raise ValueError("ids that are not 0, 1, 2, ..., or other special tokens")
        return cls("".join(tokens[n:]))


def codes_of(text: str) -> CodeArray:
    """Code point of each character. (len(text),) uint32."""
    # A byte of the command line that is no UTF-8 comes as half of a pair: it is a character without a token.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
