"""A vocabulary of any kind. In: the one file that travels with a store, a run or a checkpoint. Out: the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scmf.data.artefact import HEADER
from scmf.data.characters import CharVocabulary
from scmf.data.vocabulary import Vocabulary

AnyVocabulary = Vocabulary | CharVocabulary


def read_vocabulary(path: str | Path) -> AnyVocabulary:
    """Read the vocabulary in a file, of genes or of characters.

    Raises:
        VocabularyError: the file is missing, damaged, or no vocabulary.
    """
    try:
        header = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError):
        header = {}
    # One that is no vocabulary at all is refused by the reader of genes.
    return CharVocabulary.load(path) if HEADER in header else Vocabulary.load(path)


@dataclass(frozen=True, slots=True)
class Roles:
    """What a batch needs to know of a vocabulary."""

    pad: int
    """Id of padding."""
    mask: int
    """Id of <mask>."""
    bos: int | None
    """Id that stands before the first token of a sequence where the next token is predicted, or None."""
    first: int
    """Ids below are special: never hidden, and never drawn in place of another."""
    size: int
    """Ids."""


def roles_of(vocabulary: AnyVocabulary) -> Roles:
    """The roles of a vocabulary's ids."""
    if isinstance(vocabulary, CharVocabulary):
        return Roles(vocabulary.pad, vocabulary.mask, vocabulary.bos, vocabulary.first, len(vocabulary))
    return Roles(vocabulary.pad, vocabulary.mask, None, vocabulary.first_gene, len(vocabulary))
