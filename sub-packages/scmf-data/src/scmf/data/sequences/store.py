"""The store of sequences, read. In: a folder written by `scmf-store convert`. Out: token ids, memory-mapped.

A sequence is a text, or a cell or protein whose tokens were ready. Tokens are numbered through the whole store: the
place of a token is how many are before it, in this sequence and in those before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from scmf.core.errors import StoreError
from scmf.core.text import counted
from scmf.data.any_vocabulary import AnyVocabulary, read_vocabulary
from scmf.data.part import as_ids, prove_file
from scmf.data.reading import allow_files
from scmf.data.sequences.manifest import (
    ARRAYS,
    GROUP,
    VOCABULARY,
    SequenceManifest,
    SequencePart,
    dtype_of,
    read_sequence_manifest,
)
from scmf.data.shard import damaged_file, map_shard

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
HashArray = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class MappedPart:
    """One part's arrays, memory-mapped and read-only."""

    path: Path
    record: SequencePart
    ids: Array
    """(n_tokens,) uint8, uint16 or uint32 token ids."""
    indptr: LongArray
    """(n_sequences + 1,) int64 first token of each sequence, inside the part."""
    hashes: HashArray
    """(n_sequences,) uint64 hash of each sequence's tokens; equal for equal sequences."""

    @classmethod
    def open(cls, store: Path, record: SequencePart, manifest: SequenceManifest) -> Self:
        """Map the arrays that the record describes; StoreError where a file is not what it says."""
        path = store / record.name
        lengths = {"ids": record.n_tokens, "indptr": record.n_sequences + 1, "hashes": record.n_sequences}
        mapped = {name: map_shard(path / GROUP / name, dtype_of(name, manifest), lengths[name]) for name in ARRAYS}
        for name in ("indptr", "hashes"):  # what divides tokens among sequences, and sequences among splits
            file = f"{GROUP}/{name}/c/0"
            prove_file(path / file, record.files.get(file), store=store)
        indptr = mapped["indptr"]
        if indptr[0] != 0 or indptr[-1] != record.n_tokens or (np.diff(indptr) < 0).any():
            raise damaged_file(
                f"sequences end at {int(indptr[-1]):,}, the part has {record.n_tokens:,} tokens",
                path / GROUP / "indptr" / "c" / "0",
                store=store,
            )
        return cls(path, record, **mapped)


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequences laid end to end, copied out of the store."""

    ids: IntArray
    """(tokens,) int32 token ids."""
    offsets: LongArray
    """(n + 1,) int64 first token of each sequence."""


class SequenceStore:
    """Read-only sequences, numbered from 0 over all parts. Pickles as its path, so that workers map it anew."""

    def __init__(self, path: Path, manifest: SequenceManifest, parts: tuple[MappedPart, ...]) -> None:
        self.path = path
        self.manifest = manifest
        self.parts = parts
        self.token_starts: LongArray = _starts([p.record.n_tokens for p in parts])
        """(n_parts + 1,) int64 place of the first token of each part."""

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read the manifest and map every part.

        Raises:
            StoreError: no store there, one of cells, another version, a damaged manifest, an array that is missing,
                cut or rearranged, or an indptr or hashes with a flipped bit. Those inside tokens are what
                `scmf-store verify` finds.
        """
        path = Path(path)
        manifest = read_sequence_manifest(path)
        allow_files(len(manifest.parts))
        store = cls(path, manifest, tuple(MappedPart.open(path, record, manifest) for record in manifest.parts))
        if store.vocabulary.fingerprint != manifest.vocabulary.fingerprint:
            raise damaged_file("this is another vocabulary than the manifest's", path / VOCABULARY, store=path)
        return store

    def __reduce__(self) -> tuple[Callable[..., SequenceStore], tuple[Any, ...]]:
        return SequenceStore.open, (str(self.path.absolute()),)

    def __len__(self) -> int:
        return self.manifest.n_sequences

    @property
    def n_tokens(self) -> int:
        """Tokens of the store."""
        return self.manifest.n_tokens

    @property
    def contents(self) -> str:
        """How much it holds, for a sentence."""
        return f"{counted(len(self), 'sequence')} of {counted(self.n_tokens, 'token')}"

    @cached_property
    def fingerprint(self) -> str:
        """Changes when a token of the store changes."""
        return self.manifest.fingerprint

    @cached_property
    def vocabulary(self) -> AnyVocabulary:
        """What the ids mean.

        Raises:
            VocabularyError: its file is missing or damaged.
        """
        return read_vocabulary(self.path / VOCABULARY)

    @cached_property
    def places(self) -> LongArray:
        """(n_sequences + 1,) int64 place of the first token of each sequence, and the number of tokens."""
        firsts = [part.indptr[:-1] + start for part, start in zip(self.parts, self.token_starts, strict=False)]
        return np.concatenate([*firsts, np.array([self.n_tokens], np.int64)])

    @cached_property
    def hashes(self) -> HashArray:
        """(n_sequences,) uint64 hash of each sequence's tokens; equal for equal sequences."""
        return np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in self.parts)])

    def lengths(self, sequence_ids: npt.ArrayLike) -> LongArray:
        """(n,) int64 tokens of each sequence; IndexError outside the store."""
        ids = as_ids(sequence_ids)
        self._check(ids)
        return self.places[ids + 1] - self.places[ids]

    def read(self, start: int, stop: int) -> IntArray:
        """Copy the tokens at the places start..stop-1, (stop - start,) int32; IndexError outside the store."""
        if not 0 <= start <= stop <= self.n_tokens:
            raise IndexError(f"tokens {start}..{stop} are not all in 0..{self.n_tokens} of the store {self.path}")
        out = np.empty(stop - start, np.int32)
        for part, first in zip(self.parts, self.token_starts.tolist(), strict=False):
            low, high = max(start, first), min(stop, first + part.record.n_tokens)
            if low < high:
                out[low - start : high - start] = part.ids[low - first : high - first]
        return out

    def fetch(self, sequence_ids: npt.ArrayLike) -> Ragged:
        """Copy these sequences out of the store, whole, in the order given; IndexError outside the store."""
        ids = as_ids(sequence_ids)
        offsets = _starts(self.lengths(ids))
        pieces = [self.read(int(self.places[i]), int(self.places[i + 1])) for i in ids]
        return Ragged(np.concatenate([np.empty(0, np.int32), *pieces]), offsets)

    def locate(self, places: LongArray) -> tuple[LongArray, LongArray]:
        """(n,) int64 part of each token, and its place inside the part; the end of the last part is a place in it."""
        parts = np.minimum(np.searchsorted(self.token_starts, places, side="right"), len(self.parts)) - 1
        return parts, places - self.token_starts[parts]

    def damaged(self, place: int, what: str) -> StoreError:
        """The error about a token that cannot be."""
        part = self.parts[int(self.locate(np.array([place]))[0][0])]
        return damaged_file(what, part.path / GROUP / "ids" / "c" / "0", store=self.path)

    def _check(self, ids: LongArray) -> None:
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            bad = int(ids[(ids < 0) | (ids >= len(self))][0])
            raise IndexError(f"sequence {bad} is outside 0..{len(self) - 1} of the store {self.path}")


def _starts(sizes: Any) -> LongArray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(sizes, np.int64))])
