"""The manifest of a store of sequences. In: the bytes of `manifest.json`. Out: a checked, frozen value, and back.

The file has the envelope of every store's (scmf.data.manifest): JSON whose checksum covers all of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
import xxhash
from pydantic import Field, NonNegativeInt, PositiveInt

from scmf.core.config import Config
from scmf.data.manifest import (
    MANIFEST,
    SEQUENCES_FORMAT,
    AnyManifest,
    Checksum,
    FileRecord,
    InnerPath,
    expect_store,
    parse_document,
)

VOCABULARY: Final = "vocabulary.parquet"
GROUP: Final = "tokens"
"""Folder of the arrays inside a part."""
ARRAYS: Final = ("ids", "indptr", "hashes")

Content = Literal["text", "tokens"]
IdsDtype = Literal["uint8", "uint16", "uint32"]


class SequencePart(Config):
    """One part: a folder that is a zarr group of three arrays, and what must be in it."""

    name: Annotated[str, Field(pattern=r"^part-\d{5,}$")]
    n_sequences: PositiveInt
    n_tokens: NonNegativeInt
    files: dict[InnerPath, FileRecord]
    """Every file of the part by its path inside the part."""

    @property
    def contents(self) -> str:
        """How much the part holds, for a sentence."""
        return f"{self.n_sequences:,} sequences"


class SequenceSource(Config):
    """One input file: where its sequences lie in the store."""

    name: str
    """File name without its folder."""
    bytes: NonNegativeInt
    checksum: Checksum
    first_sequence: NonNegativeInt
    n_sequences: NonNegativeInt
    n_tokens: NonNegativeInt
    byte_order_mark: bool = False
    """The file began with one, which is left out."""


class VocabularyRecord(Config):
    """The vocabulary of the ids: a file of the store."""

    kind: Literal["characters", "genes"]
    name: str
    fingerprint: str
    size: PositiveInt
    """Ids, special tokens included."""
    file: FileRecord


class SequenceManifest(AnyManifest):
    """Everything a reader has to know before it touches a token."""

    totals: ClassVar[tuple[str, ...]] = ("n_sequences", "n_tokens")

    format: Literal["scmf-sequences"] = SEQUENCES_FORMAT
    version: Literal[1] = 1
    content: Content
    """text: a sequence is a file's text, character by character. tokens: ids that were ready."""
    n_sequences: NonNegativeInt
    n_tokens: NonNegativeInt
    longest: NonNegativeInt
    """Tokens of the longest sequence."""
    ids_dtype: IdsDtype
    vocabulary: VocabularyRecord
    parts: tuple[SequencePart, ...]
    sources: tuple[SequenceSource, ...]

    @property
    def files(self) -> dict[str, FileRecord]:
        """Files beside the parts and the manifest."""
        return {VOCABULARY: self.vocabulary.file}

    @property
    def n_bytes(self) -> int:
        """Bytes of all files but the manifest."""
        parts = sum(file.bytes for part in self.parts for file in part.files.values())
        return parts + self.vocabulary.file.bytes

    @property
    def fingerprint(self) -> str:
        """xxh3-128 over the vocabulary and every file's checksum: another one when a token changes."""
        state = xxhash.xxh3_128(self.vocabulary.fingerprint.encode() + b"\n")
        for part in self.parts:
            for name in sorted(part.files):
                state.update(f"{part.name}/{name} {part.files[name].checksum}\n".encode())
        return state.hexdigest()


def ids_dtype(vocabulary_size: int) -> IdsDtype:
    """The narrowest type that holds every id of a vocabulary."""
    if vocabulary_size <= 1 << 8:
        return "uint8"
    return "uint16" if vocabulary_size <= 1 << 16 else "uint32"


def dtype_of(array: str, manifest: SequenceManifest) -> np.dtype[np.generic]:
    """Type of one of the arrays of a part."""
    types: dict[str, str] = {"ids": manifest.ids_dtype, "indptr": "int64", "hashes": "uint64"}
    return np.dtype(types[array])


def read_sequence_manifest(store: Path) -> SequenceManifest:
    """Read the manifest of the store in this folder.

    Raises:
        StoreError: there is none, it is damaged, or the store is one of cells.
    """
    expect_store(store)
    path = store / MANIFEST
    return parse_document(path.read_bytes(), SequenceManifest, form=SEQUENCES_FORMAT, where=path)
