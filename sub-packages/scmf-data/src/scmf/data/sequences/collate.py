"""Microbatches of sequences. In: where units lie in the store, and their layout. Out: what the model sees and predicts.

Shapes: T positions of a microbatch, M targets, p pieces.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from scmf.core.batch import Microbatch
from scmf.data.any_vocabulary import Roles
from scmf.data.collate import lay_microbatch, lay_segments
from scmf.data.masks import Corruption
from scmf.data.objective import Objective
from scmf.data.packing import Layout
from scmf.data.part_table import pointer_to
from scmf.data.rank import Tokens
from scmf.data.sequences.store import SequenceStore
from scmf.data.sequences.units import Pieces, Taken

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


class SequenceCollator:
    """Copies units out of the store, hides or shifts them, and lays them into microbatches."""

    def __init__(self, store: SequenceStore, roles: Roles, objective: Objective, *, seq_length: int) -> None:
        self._store = store
        self._roles = roles
        self._objective = objective
        self._seq_length = seq_length
        """No segment, of padding neither, is longer."""
        self._addresses = np.array([part.ids.ctypes.data for part in store.parts], np.uint64)
        self._like: Array = np.empty(0, store.parts[0].ids.dtype)

    def collate(self, taken: Taken, pieces: Pieces, *, keys: KeyArray, layout: Layout) -> tuple[Microbatch, ...]:
        """Make the microbatches of a layout.

        Args:
            taken: the units that the layout numbers.
            pieces: theirs.
            keys: (k,) uint64 key of each unit's corruption.
            layout: which unit goes where.

        Raises:
            StoreError: an id outside the vocabulary: the store is damaged.
        """
        tokens = self._gather(pieces)
        return tuple(
            self._microbatch(tokens, (taken, pieces, keys), layout.positions, members, starts)
            for members, starts in zip(layout.cells, layout.starts, strict=True)
        )

    def _gather(self, pieces: Pieces) -> Tokens:
        """The tokens of every piece, int32; where the next one is predicted, with the one before its first target."""
        before = not isinstance(self._objective, Corruption)
        # From the first token that is read: behind it a sequence of one token may already be in the next part.
        parts, inside = self._store.locate(pieces.places - (before & ~pieces.after_bos))
        addresses = self._addresses[parts] + (inside * self._like.itemsize).astype(np.uint64)
        offsets = np.zeros(len(pieces.places) + 1, np.int64)
        np.cumsum(pieces.lengths + int(before), out=offsets[1:])
        ids = np.empty(int(offsets[-1]), np.int32)
        bos = -1 if self._roles.bos is None else self._roles.bos
        bad = gather_pieces(
            self._like,
            (addresses, pieces.lengths, pieces.after_bos),
            offsets,
            (int(before), bos, self._roles.size),
            ids,
        )
        if bad >= 0:
            what = f"ids between tokens {pieces.places[bad]:,} and {pieces.places[bad] + pieces.lengths[bad]:,} are "
            what += f"not all below the vocabulary's {self._roles.size:,}"
            raise self._store.damaged(int(pieces.places[bad]), what)
        return Tokens(ids, offsets)

    def _microbatch(
        self,
        tokens: Tokens,
        units: tuple[Taken, Pieces, KeyArray],
        n_positions: int,
        members: LongArray,
        starts: LongArray,
    ) -> Microbatch:
        taken, pieces, keys = units
        numbers, owners, first = lay_pieces(members, starts, pieces.bounds, pieces.lengths)
        if isinstance(self._objective, Corruption):
            fields = self._hidden(tokens, (pieces.places, keys[owners]), (numbers, first), n_positions)
        else:
            fields = lay_next_tokens(
                (tokens.ids, tokens.offsets), (numbers, first), (n_positions, self._seq_length), self._roles.pad
            )
        inputs, positions, cu_seqlens, target_positions, targets = fields
        return Microbatch(
            input_ids=inputs,
            positions=positions,
            cu_seqlens=cu_seqlens,
            target_positions=target_positions,
            targets=targets,
            cell_ids=taken.ids[members],
            tokens=int(taken.lengths[members].sum()),
            longest=int(np.diff(cu_seqlens).max(initial=0)),
        )

    def _hidden(
        self, tokens: Tokens, pieces: tuple[LongArray, KeyArray], places: tuple[LongArray, LongArray], n_positions: int
    ) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
        """BERT's corruption, as for cells: a hash of the epoch's key and of the place of the piece in the store."""
        roles, corruption = self._roles, self._objective
        if not isinstance(corruption, Corruption):
            raise TypeError("only a corruption hides tokens")
        piece_keys = np.zeros(len(tokens), np.uint64)
        piece_keys[places[0]] = pieces[1]
        fields = lay_microbatch(
            (tokens.ids, tokens.offsets),
            (pieces[0], piece_keys),
            places,
            (n_positions, self._seq_length),
            (roles.pad, roles.mask, roles.first, roles.size - roles.first),
            (corruption.threshold, corruption.mask, corruption.random),
        )
        return fields[0], fields[1], fields[2], fields[3], fields[4]


@_jit
def gather_pieces(
    like: Array,
    pieces: tuple[Array, LongArray, Array],
    offsets: LongArray,
    how: tuple[int, int, int],
    out: IntArray,
) -> int:
    """Copy pieces out of the store.

    Args:
        like: empty array of the type of the ids.
        pieces: address of each piece's first token that is read, uint64; its length, int64; whether <bos> stands
            before it, bool.
        offsets: (p + 1,) int64 where each begins in the output.
        how: 1 where the token before each piece comes first, else 0; id of <bos>; ids of the vocabulary.
        out: (tokens,) int32, written.

    Returns:
        -1, or the first piece with an id outside the vocabulary.
    """
    addresses, lengths, after_bos = pieces
    before, bos, size = how
    for p in range(len(lengths)):
        place = out[offsets[p] : offsets[p + 1]]
        n = lengths[p] + before
        if before == 1 and after_bos[p]:
            place[0] = bos
            place, n = place[1:], n - 1
        ids = numba.carray(pointer_to(addresses[p]), (n,), like.dtype)
        highest = np.int64(0)
        for j in range(n):
            token = np.int64(ids[j])
            place[j] = token
            highest = max(highest, token)
        if highest >= size:
            return p
    return -1


@_jit
def lay_pieces(
    members: LongArray, starts: LongArray, bounds: LongArray, lengths: LongArray
) -> tuple[LongArray, LongArray, LongArray]:
    """Where the pieces of a microbatch's units lie.

    Args:
        members: (C,) int64 units.
        starts: (C,) int64 first position of each.
        bounds: (k + 1,) int64 first piece of each unit.
        lengths: (p,) int64 tokens of each piece.

    Returns:
        (q,) int64 number, unit and first position of each piece.
    """
    n = 0
    for unit in members:
        n += bounds[unit + 1] - bounds[unit]
    numbers, owners, first = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    n = 0
    for i in range(len(members)):
        at = starts[i]
        for piece in range(bounds[members[i]], bounds[members[i] + 1]):
            numbers[n], owners[n], first[n] = piece, members[i], at
            at += lengths[piece]
            n += 1
    return numbers, owners, first


@_jit
def lay_next_tokens(
    tokens: tuple[IntArray, LongArray], places: tuple[LongArray, LongArray], shape: tuple[int, int], pad: int
) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Lay pieces so that every position predicts the token behind it.

    Args:
        tokens: ids, flat int32, of each piece the token before it and its own; offsets (p + 1,) int64.
        places: number and first position of each piece of the microbatch, (q,) int64 each.
        shape: T and the longest segment.
        pad: id of <pad>.

    Returns:
        input_ids, positions, cu_seqlens, target_positions and targets of `Microbatch`.
    """
    ids, offsets = tokens
    numbers, starts = places
    lengths = offsets[numbers + 1] - offsets[numbers] - 1
    input_ids = np.full(shape[0], pad, np.int32)
    positions = np.empty(shape[0], np.int32)
    cu_seqlens = lay_segments(lengths, starts, shape[0], shape[1], positions)
    total = lengths.sum()
    targets, target_positions = np.empty(total, np.int32), np.empty(total, np.int32)
    n = 0
    for q in range(len(numbers)):
        first, start, size = offsets[numbers[q]], starts[q], lengths[q]
        input_ids[start : start + size] = ids[first : first + size]
        targets[n : n + size] = ids[first + 1 : first + 1 + size]
        for j in range(size):
            target_positions[n + j] = start + j
        n += size
    return input_ids, positions, cu_seqlens, target_positions, targets
