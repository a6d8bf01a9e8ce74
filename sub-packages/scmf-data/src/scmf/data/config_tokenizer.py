"""`data.tokenizer`: what one cell, or one window of text, becomes. Values only: imports no store, no kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from scmf.core.config import Variant
from scmf.core.config_fault import Fault
from scmf.core.near_word import nearest

SHIPPED_VOCABULARIES = {"geneformer-v1": 25_426, "geneformer-v2": 20_275}
"""Tokens of each shipped vocabulary, special tokens included, so that a config is checked without loading one.

Source: token_dictionary_gc30M (Geneformer V1) and token_dictionary_gc104M (V2), keys counted.
"""

CHARACTER_SPECIALS = ("<pad>", "<mask>", "<bos>")
"""Special tokens of every vocabulary of characters, in the order of their ids; the characters follow."""


class TokenizerConfig(Variant):
    """Base of every tokenizer: what one cell, or one window of a longer sequence, becomes."""

    seq_length: Annotated[int, Field(ge=2, le=65_536)]
    """Tokens kept a cell or a window, special tokens included."""

    @property
    def vocabulary_size(self) -> int | None:
        """Tokens of the vocabulary, special tokens included; None where something has to be opened to know."""
        return None

    @property
    def vocabulary_name(self) -> str:
        """The vocabulary, for messages."""
        return "the store's vocabulary"


class VocabularyFile(Variant):
    """A vocabulary that comes with scmf, or a file of one's own."""

    vocabulary: Annotated[str, Field(min_length=1)] = "geneformer-v1"
    """A shipped vocabulary (geneformer-v1, geneformer-v2), or the path of a vocabulary file."""

    def faults(self) -> Iterator[Fault]:
        """A bare word is the name of a shipped vocabulary: a misspelt name should not become a path."""
        yield from super().faults()
        name = self.vocabulary
        if name not in SHIPPED_VOCABULARIES and "/" not in name and "." not in name:
            near = nearest(name, SHIPPED_VOCABULARIES)
            yield Fault(
                "vocabulary",
                f"no vocabulary {name} is shipped, and a path would hold a slash or a dot",
                f"did you mean {near}?" if near else f"use one of {', '.join(SHIPPED_VOCABULARIES)}, or ./{name}",
            )


class RankTokenizerConfig(TokenizerConfig, VocabularyFile, kind="rank"):
    """Rank value encoding: a cell is its genes, ordered by how far each exceeds its corpus median."""

    seq_length: Annotated[int, Field(ge=2, le=65_536)]
    """Tokens kept a cell, special tokens included. Geneformer V1: 2048, V2: 4096."""

    @property
    def vocabulary_size(self) -> int | None:
        """Tokens of a shipped vocabulary; None for a file, which has to be opened to know."""
        return SHIPPED_VOCABULARIES.get(self.vocabulary)

    @property
    def vocabulary_name(self) -> str:
        """The name or path."""
        return self.vocabulary


class StoredTokenizerConfig(TokenizerConfig, kind="stored"):
    """The ids that a store of sequences holds, whatever they mean; their vocabulary is the store's."""


class CharTokenizerConfig(TokenizerConfig, kind="char"):
    """One token a character; the vocabulary was made of the text at its conversion, and is the store's."""

    characters: Annotated[int, Field(ge=1, le=65_533)] | None = None
    """Different characters that the store must have, so that sizes are known before it is opened; null: any."""

    @property
    def vocabulary_size(self) -> int | None:
        """The characters and the special tokens; None where any number will do."""
        return None if self.characters is None else self.characters + len(CHARACTER_SPECIALS)
