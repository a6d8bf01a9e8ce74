"""The store of sequences, written. In: token ids, sequence after sequence. Out: a complete store, or nothing.

As for cells, everything is written into a hidden sibling of the destination, brought to the disk, and renamed.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import xxhash

from scmf.data.any_vocabulary import AnyVocabulary
from scmf.data.characters import CharVocabulary
from scmf.data.manifest import FileRecord, describe_file
from scmf.data.sequences.manifest import (
    ARRAYS,
    GROUP,
    VOCABULARY,
    Content,
    SequenceManifest,
    SequencePart,
    SequenceSource,
    VocabularyRecord,
    ids_dtype,
)
from scmf.data.shard import ShardWriter, write_document
from scmf.data.store_writer import StoreWriter, describe_files

Array = npt.NDArray[Any]
LongArray = npt.NDArray[np.int64]

TOKENS_A_PART: Final = 1 << 30
"""A part is closed behind the sequence that reaches this; a longer sequence makes a larger part."""
_GROUP: Final = {"zarr_format": 3, "node_type": "group", "attributes": {}}


class SequencePartWriter:
    """Appends sequences to one part."""

    def __init__(self, path: Path, *, dtype: npt.DTypeLike) -> None:
        self.path = path
        self.n_sequences = 0
        write_document(path, _GROUP)
        write_document(path / GROUP, _GROUP)
        types = dict(zip(ARRAYS, (dtype, np.int64, np.uint64), strict=True))
        self._arrays = {name: ShardWriter(path / GROUP / name, types[name]) for name in ARRAYS}

    @property
    def n_tokens(self) -> int:
        """Tokens so far."""
        return self._arrays["ids"].n

    def append(self, ids: Array) -> None:
        """More tokens of the present sequence; the array's type holds every id."""
        self._arrays["ids"].append(ids)

    def end(self, ends: LongArray, hashes: npt.NDArray[np.uint64]) -> None:
        """Note where sequences end.

        Args:
            ends: (k,) int64 tokens of the part up to the end of each.
            hashes: (k,) uint64 hash of each.
        """
        if self.n_sequences == 0:
            self._arrays["indptr"].append(np.zeros(1, np.int64))
        self._arrays["indptr"].append(ends)
        self._arrays["hashes"].append(hashes)
        self.n_sequences += len(ends)

    def close(self) -> SequencePart:
        """Finish the arrays and describe the part."""
        n_tokens = self.n_tokens
        closed = {f"{GROUP}/{name}": writer.close() for name, writer in self._arrays.items()}
        files = describe_files(self.path, closed)
        return SequencePart(name=self.path.name, n_sequences=self.n_sequences, n_tokens=n_tokens, files=files)

    def abandon(self) -> None:
        """Close the files of a part that will not be finished."""
        for writer in self._arrays.values():
            writer.abandon()


class SequenceWriter:
    """A store of sequences being written; leaving the `with` block without `finish` leaves nothing."""

    def __init__(
        self,
        dest: Path,
        vocabulary: AnyVocabulary,
        *,
        content: Content,
        overwrite: bool = False,
        tokens_a_part: int = TOKENS_A_PART,
    ) -> None:
        """Check the destination; nothing is written yet.

        Args:
            dest: where the store is to be.
            vocabulary: of the ids; it travels with the store.
            content: what a sequence is.
            overwrite: a store that is there may be replaced.
            tokens_a_part: see TOKENS_A_PART.

        Raises:
            StoreError: the destination is in use.
        """
        self.vocabulary = vocabulary
        self.content: Content = content
        self.dtype = ids_dtype(len(vocabulary))
        self.n_sequences = 0
        self.n_tokens = 0
        self._tokens_a_part = tokens_a_part
        self._longest = 0
        self._parts: list[SequencePart] = []
        self._part: SequencePartWriter | None = None
        self._hash = xxhash.xxh3_64()
        self._begun = 0
        """Tokens of the present sequence."""
        self._writer = StoreWriter(dest, overwrite=overwrite)

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part is not None:
            self._part.abandon()
        self._writer.__exit__(kind, error, trace)

    def append(self, ids: Array) -> None:
        """More tokens of the present sequence. (n,) integers, each an id of the vocabulary."""
        ids = np.ascontiguousarray(ids, dtype=np.dtype(self.dtype).newbyteorder("<"))
        self._open_part().append(ids)
        self._hash.update(ids.view(np.uint8).data)
        self._begun += len(ids)

    def end_sequence(self) -> None:
        """The present sequence is whole, and may be empty; the next one begins."""
        hashes = np.array([self._hash.intdigest()], np.uint64)
        self._hash = xxhash.xxh3_64()
        lengths = np.array([self._begun], np.int64)
        self._begun = 0
        self._note(lengths, hashes)

    def append_whole(self, ids: Array, lengths: LongArray) -> None:
        """Sequences that are whole, many at once.

        Args:
            ids: (tokens,) integers, each an id of the vocabulary.
            lengths: (k,) int64 tokens of each sequence.
        """
        ids = np.ascontiguousarray(ids, dtype=np.dtype(self.dtype).newbyteorder("<"))
        ends = np.cumsum(lengths)
        # One digest a sequence, by C code: a few hundred nanoseconds for thousands of tokens.
        bounds = zip((ends - lengths).tolist(), ends.tolist(), strict=True)
        hashes = np.array([xxhash.xxh3_64_intdigest(ids[a:b].view(np.uint8).data) for a, b in bounds], np.uint64)
        self._open_part().append(ids)
        self._note(lengths, hashes)

    def finish(self, sources: tuple[SequenceSource, ...]) -> SequenceManifest:
        """Write vocabulary and manifest, and put the store in its place."""
        self._close_part()
        folder = self._writer.folder
        self.vocabulary.save(folder / VOCABULARY)
        manifest = SequenceManifest(
            content=self.content,
            n_sequences=self.n_sequences,
            n_tokens=self.n_tokens,
            longest=self._longest,
            ids_dtype=self.dtype,
            vocabulary=_record(self.vocabulary, describe_file(folder / VOCABULARY)),
            parts=tuple(self._parts),
            sources=sources,
        )
        self._writer.finish(manifest)
        return manifest

    def _note(self, lengths: LongArray, hashes: npt.NDArray[np.uint64]) -> None:
        part = self._open_part()
        total = int(lengths.sum())
        part.end(part.n_tokens - total + np.cumsum(lengths), hashes)
        self.n_sequences += len(lengths)
        self.n_tokens += total
        self._longest = max(self._longest, int(lengths.max(initial=0)))
        if part.n_tokens >= self._tokens_a_part:
            self._close_part()

    def _open_part(self) -> SequencePartWriter:
        if self._part is None:
            path = self._writer.folder / f"part-{len(self._parts):05d}"
            self._part = SequencePartWriter(path, dtype=self.dtype)
        return self._part

    def _close_part(self) -> None:
        if self._part is not None:
            self._parts.append(self._part.close())
            self._part = None


def _record(vocabulary: AnyVocabulary, file: FileRecord) -> VocabularyRecord:
    return VocabularyRecord(
        kind="characters" if isinstance(vocabulary, CharVocabulary) else "genes",
        name=vocabulary.name,
        fingerprint=vocabulary.fingerprint,
        size=len(vocabulary),
        file=file,
    )
