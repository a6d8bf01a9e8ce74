"""What one unit of a step is. In: numbers of units. Out: where their tokens lie in the store.

`WindowUnits`: stretches of a long text, `seq_length` predicted tokens each; together they are every token of a split,
once. `SequenceUnits`: short sequences, whole. A unit is one or several pieces: a window that reaches over the end of a
text goes on in the next one, and attention crosses neither.

Where the next token is predicted, the first token of a text is predicted from <bos>. So every token is a target, and a
split needs no token of the split before it. A vocabulary without <bos> leaves first tokens out of the targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numba
import numpy as np
import numpy.typing as npt

from scmf.core.random import derive_seed
from scmf.data.order import permute
from scmf.data.split import CellSet

LongArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True, slots=True)
class Taken:
    """Some units, as they were drawn."""

    ids: LongArray
    """(k,) int64 what the run's records call them: the place of a window's first token, the number of a sequence."""
    starts: LongArray
    """(k,) int64 where each begins among the targets of its split."""
    lengths: LongArray
    """(k,) int64 tokens of each that the model sees."""

    def part(self, places: LongArray) -> Taken:
        """The units at these places of the draw."""
        return Taken(self.ids[places], self.starts[places], self.lengths[places])


@dataclass(frozen=True, slots=True)
class Pieces:
    """Stretches of tokens inside one sequence, unit after unit."""

    bounds: LongArray
    """(k + 1,) int64 first piece of each unit, and the number of pieces."""
    places: LongArray
    """(p,) int64 place in the store of each piece's first token: its first target, where the next one is predicted."""
    lengths: LongArray
    """(p,) int64 tokens of each."""
    after_bos: BoolArray
    """(p,) bool: the first target is predicted from <bos>, and not from the token before it."""


class Units(Protocol):
    """The units of a split."""

    def __len__(self) -> int:
        """Units of an epoch."""
        ...

    def take(self, places: LongArray, *, epoch: int) -> Taken:
        """The units at these places of an epoch's order."""
        ...

    def pieces(self, taken: Taken) -> Pieces:
        """Where the tokens of these units lie."""
        ...


@dataclass(frozen=True, slots=True)
class TargetSpace:
    """The tokens of one split that may be targets, numbered one behind the other."""

    cumulative: LongArray
    """(segments + 1,) int64 targets before each segment (a text, or the part of it that is in the split)."""
    firsts: LongArray
    """(segments,) int64 place in the store of each segment's first target."""
    bos: bool
    """Whether a segment's first target is its first token, predicted from <bos>."""

    @classmethod
    def of(cls, places: LongArray, start: int, stop: int, *, skip_first: bool, bos: bool) -> TargetSpace:
        """The targets among the tokens start..stop-1 of a store.

        Args:
            places: (n_sequences + 1,) int64 place of the first token of each sequence.
            start: first token of the split.
            stop: its end.
            skip_first: a segment's first token is no target, for there is nothing to predict it from.
            bos: segments begin behind <bos>.
        """
        low, high = np.searchsorted(places, [start, stop - 1], side="right") - 1 if stop > start else (0, -1)
        edges = np.clip(places[low : high + 2], start, stop)
        firsts, ends = edges[:-1] + int(skip_first), edges[1:]
        kept = ends > firsts
        sizes = (ends - firsts)[kept]
        return cls(np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]), firsts[kept], bos)

    def __len__(self) -> int:
        """Targets."""
        return int(self.cumulative[-1])


@dataclass(frozen=True, slots=True)
class WindowUnits:
    """Windows of equal length over the targets of a split, taken as a ring that begins elsewhere in every epoch."""

    space: TargetSpace
    size: int
    """Targets of a window; the last window of an epoch may have fewer."""
    seed: int
    purpose: str
    """Name of the order: that of training differs from that of validation."""
    moving: bool
    """Whether windows begin elsewhere in every epoch."""

    def __len__(self) -> int:
        return (len(self.space) + self.size - 1) // self.size

    def offset(self, epoch: int) -> int:
        """Where the first window of an epoch begins among the targets."""
        span = min(self.size, len(self.space))
        return derive_seed(self.seed, f"windows/{self.purpose}", epoch) % span if self.moving else 0

    def take(self, places: LongArray, *, epoch: int) -> Taken:
        """The windows at these places of an epoch's order."""
        numbers = permute(places, n=len(self), key=derive_seed(self.seed, self.purpose, epoch))
        total = len(self.space)
        lengths = np.minimum(self.size, total - numbers * self.size)
        starts = (self.offset(epoch) + numbers * self.size) % total
        return Taken(self._place_of(starts), starts, lengths)

    def pieces(self, taken: Taken) -> Pieces:
        """Where the tokens of these windows lie."""
        space = self.space
        found = cut_windows(taken.starts, taken.lengths, space.cumulative, space.firsts)
        return Pieces(found[0], found[1], found[2], found[3] & space.bos)

    def _place_of(self, targets: LongArray) -> LongArray:
        segment = np.searchsorted(self.space.cumulative, targets, side="right") - 1
        return self.space.firsts[segment] + (targets - self.space.cumulative[segment])


@dataclass(frozen=True, slots=True)
class SequenceUnits:
    """Whole sequences, cut behind `limit` tokens."""

    sequences: CellSet
    places: LongArray
    """(n_sequences + 1,) int64 place of the first token of each sequence of the store."""
    limit: int
    """Tokens of a sequence that the model sees at most."""
    skip_first: bool
    """The first token is no target: there is nothing to predict it from."""
    bos: bool
    """Sequences begin behind <bos>."""
    seed: int
    purpose: str

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, places: LongArray, *, epoch: int) -> Taken:
        """The sequences at these places of an epoch's order."""
        key = derive_seed(self.seed, self.purpose, epoch)
        ids = self.sequences.take(permute(places, n=len(self), key=key))
        starts = self.places[ids] + int(self.skip_first)
        return Taken(ids, starts, np.minimum(np.maximum(self.places[ids + 1] - starts, 0), self.limit))

    def pieces(self, taken: Taken) -> Pieces:
        """Where the tokens of these sequences lie."""
        k = len(taken.ids)
        return Pieces(np.arange(k + 1), taken.starts, taken.lengths, np.full(k, self.bos))


@_jit
def cut_windows(
    starts: LongArray, lengths: LongArray, cumulative: LongArray, firsts: LongArray
) -> tuple[LongArray, LongArray, LongArray, BoolArray]:
    """Cut windows of a ring of targets where segments end.

    Args:
        starts: (k,) int64 first target of each window.
        lengths: (k,) int64 its targets, at most all of them.
        cumulative: (segments + 1,) int64 targets before each segment, and all of them.
        firsts: (segments,) int64 place of each segment's first target.

    Returns:
        bounds (k + 1,) int64; and of each piece its place, its length, and whether a segment begins with it.
    """
    total = cumulative[-1]
    bounds = np.zeros(len(starts) + 1, np.int64)
    n = 0
    for counting in (True, False):
        if not counting:
            places = np.empty(n, np.int64)
            sizes = np.empty(n, np.int64)
            begins = np.empty(n, np.bool_)
        n = 0
        for k in range(len(starts)):
            at, left = starts[k], lengths[k]
            segment = np.searchsorted(cumulative, at, side="right") - 1
            while left > 0:
                size = min(left, cumulative[segment + 1] - at)
                if not counting:
                    places[n] = firsts[segment] + (at - cumulative[segment])
                    sizes[n] = size
                    begins[n] = at == cumulative[segment]
                n += 1
                left -= size
                at += size
                segment += 1
                if at == total:
                    at, segment = 0, 0
            bounds[k + 1] = n
    return bounds, places, sizes, begins
