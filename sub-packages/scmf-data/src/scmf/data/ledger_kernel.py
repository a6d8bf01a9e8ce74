"""A set of numbers in a few bits each. In: rising positions. Out: a stream of bits, and back.

The positions are cut into buckets of 2**SPAN. In a bucket the gaps between neighbours are written as Rice codes:
the gap's high part as so many zeros and a one, then its low `rice` bits. A bucket begins at a whole word; the
zeros behind its last code are no code, because no one follows.

Source: Golomb, Run-length encodings, 1966; Rice and Plaunt, 1971.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numba
import numpy as np
import numpy.typing as npt

KeyArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]

SPAN = 24
"""Bits of a position inside its bucket."""

_ONE = np.uint64(1)
_SIX = np.uint64(6)
_LOW_SIX = np.uint64(63)

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


def bits_of_gap(gap: float, rice: int) -> float:
    """Expected bits of a code when positions are random and `gap` apart on average."""
    return rice + 1 + 1 / math.expm1(min(700.0, 2.0**rice / gap))  # above 700 nothing is left of it


def encode(positions: KeyArray, *, bits: int, rice: int) -> tuple[KeyArray, KeyArray]:
    """Write rising positions below 2**bits.

    Args:
        positions: (n,) uint64, strictly rising.
        bits: of a position.
        rice: bits of a gap that are written as they are.

    Returns:
        (buckets + 1,) uint64 first word of each bucket and the end, and the (words,) uint64 themselves.
    """
    n_buckets = 1 << max(0, bits - SPAN)
    starts = np.zeros(n_buckets + 1, np.uint64)
    measure_buckets(positions, rice, starts[1:])
    np.cumsum(starts, out=starts)
    words = np.zeros(int(starts[-1]), np.uint64)
    write_codes(positions, rice, starts, words)
    return starts, words


def encode_ranges(ranges: Iterable[KeyArray], *, bits: int, rice: int) -> tuple[int, KeyArray, KeyArray]:
    """Write one range of positions behind the other, each as `encode` does; only one is needed at a time.

    Returns:
        How many positions, and what `encode` returns, over all ranges.
    """
    n, n_words = 0, 0
    starts, words = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for positions in ranges:
        first, written = encode(positions, bits=bits, rice=rice)
        starts.append(first[:-1] + np.uint64(n_words))
        words.append(written)
        n, n_words = n + len(positions), n_words + len(written)
    return n, np.concatenate([*starts, np.array([n_words], np.uint64)]), np.concatenate(words)


@_jit
def measure_buckets(positions: KeyArray, rice: int, words: KeyArray) -> None:
    """Write how many words each bucket takes."""
    sizes = np.zeros(len(words), np.int64)
    bucket, before = np.uint64(0), np.int64(-1)
    for position in positions:
        bucket, before, gap = _step(position, bucket, before)
        sizes[bucket] += (gap >> rice) + 1 + rice
    for k in range(len(words)):
        words[k] = (sizes[k] + 63) // 64


@_jit
def write_codes(positions: KeyArray, rice: int, starts: KeyArray, words: KeyArray) -> None:
    """Write every code into words that are all zero."""
    bucket, before, at = np.uint64(0), np.int64(-1), np.uint64(0)
    low = (_ONE << np.uint64(rice)) - _ONE
    for position in positions:
        old = bucket
        bucket, before, gap = _step(position, bucket, before)
        if bucket != old:
            at = starts[bucket] << _SIX
        at += np.uint64(gap >> rice)
        words[at >> _SIX] |= _ONE << (at & _LOW_SIX)
        at += _ONE
        rest, shift = np.uint64(gap) & low, at & _LOW_SIX
        words[at >> _SIX] |= rest << shift
        if shift + np.uint64(rice) > np.uint64(64):
            words[(at >> _SIX) + _ONE] |= rest >> (np.uint64(64) - shift)
        at += np.uint64(rice)


@_jit
def _step(position: np.uint64, bucket: np.uint64, before: np.int64) -> tuple[np.uint64, np.int64, np.int64]:
    """Bucket and place of a position, and its gap to the one before it in the same bucket."""
    here = position >> np.uint64(SPAN)
    if here != bucket:
        before = np.int64(-1)
    place = np.int64(position & np.uint64((1 << SPAN) - 1))
    return here, place, place - before - 1


@_jit
def read_code(words: KeyArray, at: np.int64, end: np.int64, rice: int) -> tuple[np.int64, np.int64]:
    """Read one code.

    Args:
        words: all of them.
        at: first bit of the code.
        end: first bit behind the bucket.
        rice: as it was written.

    Returns:
        The gap and the first bit behind the code; a gap of -1 where the bucket has no more.
    """
    high = np.int64(0)
    while at < end and not (words[at >> 6] >> np.uint64(at & 63)) & _ONE:
        high += 1
        at += 1
    at += 1
    if at + rice > end:
        return np.int64(-1), end
    shift = np.uint64(at & 63)
    low = words[at >> 6] >> shift if at < end else np.uint64(0)
    if shift + np.uint64(rice) > np.uint64(64):
        low |= words[(at >> 6) + 1] << (np.uint64(64) - shift)
    low &= (_ONE << np.uint64(rice)) - _ONE
    return (high << rice) | np.int64(low), at + rice


@_jit
def decode(starts: KeyArray, words: KeyArray, rice: int, out: KeyArray) -> int:
    """Write all positions, rising; returns how many there are, of which only len(out) are written."""
    n = 0
    for bucket in range(len(starts) - 1):
        at, end, place = np.int64(starts[bucket]) * 64, np.int64(starts[bucket + 1]) * 64, -1
        while True:
            gap, at = read_code(words, at, end, rice)
            if gap < 0:
                break
            place += gap + 1
            if n < len(out):
                out[n] = (np.uint64(bucket) << np.uint64(SPAN)) + np.uint64(place)
            n += 1
    return n


@_jit
def find(positions: KeyArray, starts: KeyArray, words: KeyArray, rice: int, found: BoolArray) -> None:
    """Write whether each of these rising positions is in the set; each bucket is read once at most.

    Args:
        positions: (k,) uint64, not falling, each inside the buckets.
        starts: (buckets + 1,) uint64.
        words: (words,) uint64.
        rice: as it was written.
        found: (k,) bool, written.
    """
    bucket, place, at, end = np.int64(-1), np.int64(-1), np.int64(0), np.int64(0)
    mask = np.uint64((1 << SPAN) - 1)
    for k in range(len(positions)):
        here = np.int64(positions[k] >> np.uint64(SPAN))
        if here != bucket:
            bucket, place = here, np.int64(-1)
            at, end = np.int64(starts[bucket]) * 64, np.int64(starts[bucket + 1]) * 64
        wanted = np.int64(positions[k] & mask)
        while place < wanted:
            gap, at = read_code(words, at, end, rice)
            if gap < 0:
                place = np.int64(1 << SPAN)
            else:
                place += gap + 1
        found[k] = place == wanted
