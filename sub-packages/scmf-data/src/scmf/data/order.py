"""The order of things, without a list of it. In: a place in the order. Out: what stands there, in O(1) memory.

`permute` is a keyed bijection of 0..n-1: a Feistel network over a rectangle just larger than n, walked until
it lands inside. Nothing of length n is ever made, so a hundred million cells cost what ten do, and the cells
of a step are arithmetic on its position.

Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002 (generalised Feistel, cycle walking).
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

ROUNDS = 8

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


def permute(indices: LongArray, *, n: int, key: int) -> LongArray:
    """What stands at these places of the order that the key names.

    Args:
        indices: (k,) int64 places, each in 0..n-1.
        n: length of the order, below 2**62.
        key: any integer in 0..2**64-1; another key, another order.

    Returns:
        (k,) int64; over all places, every number in 0..n-1 once.
    """
    return _map(indices, n=n, key=key, forward=True)


def permute_each(places: LongArray, *, sizes: LongArray, keys: KeyArray) -> LongArray:
    """What stands at these places, each of an order of its own.

    Args:
        places: (k,) int64, place i in 0..sizes[i]-1.
        sizes: (k,) int64 length of each order, below 2**62.
        keys: (k,) uint64 name of each order, as in `permute`.

    Returns:
        (k,) int64; equal to `permute(places[i:i+1], n=sizes[i], key=keys[i])` for each i.
    """
    if len(places) and (places.min() < 0 or (places >= sizes).any()):
        raise IndexError("a place is outside of its order")
    out = np.empty(len(places), np.int64)
    _walk_each(np.ascontiguousarray(places), np.ascontiguousarray(sizes), np.ascontiguousarray(keys), out)
    return out


def derive_keys(key: int, numbers: LongArray) -> KeyArray:
    """A key for each number, a function of the key and of that number alone. (k,) uint64."""
    keys: KeyArray = _keys(np.uint64(key), np.ascontiguousarray(numbers, dtype=np.int64))
    return keys


def unpermute(values: LongArray, *, n: int, key: int) -> LongArray:
    """At which places of the order these stand: the inverse of `permute`."""
    return _map(values, n=n, key=key, forward=False)


def _map(numbers: LongArray, *, n: int, key: int, forward: bool) -> LongArray:
    numbers = np.ascontiguousarray(numbers, dtype=np.int64)
    if numbers.size and (numbers.min() < 0 or numbers.max() >= n):
        raise IndexError(f"places {numbers.min()}..{numbers.max()} are not all in 0..{n - 1}")
    out = np.empty(numbers.shape, np.int64)
    _walk(numbers, n, np.uint64(key), forward, out)
    return out


@_jit
def mix(word: np.uint64) -> np.uint64:
    """Scatter the bits of a word. Source: splitmix64 (Steele, Lea and Flood, 2014), finaliser."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@_jit
def scale(word: np.uint64, n: np.uint64) -> np.uint64:
    """Bring a scattered word to 0..n-1 for n <= 2**32, without a division."""
    return ((word >> np.uint64(32)) * n) >> np.uint64(32)


@_jit
def _width(n: int) -> np.uint64:
    """Side of the least square that holds n numbers."""
    width = np.uint64(np.ceil(np.sqrt(float(n))))
    while width * width < np.uint64(n):
        width += np.uint64(1)
    return width


@_jit
def _walk(numbers: LongArray, n: int, key: np.uint64, forward: bool, out: LongArray) -> None:
    size, width = np.uint64(n), _width(n)
    for i in range(len(numbers)):
        value = np.uint64(numbers[i])
        while True:
            value = _forward(value, width, key) if forward else _backward(value, width, key)
            if value < size:
                break
        out[i] = value


@_jit
def _walk_each(numbers: LongArray, sizes: LongArray, keys: KeyArray, out: LongArray) -> None:
    for i in range(len(numbers)):
        size, width = np.uint64(sizes[i]), _width(sizes[i])
        value = _forward(np.uint64(numbers[i]), width, keys[i])
        while value >= size:
            value = _forward(value, width, keys[i])
        out[i] = value


@_jit
def _keys(key: np.uint64, numbers: LongArray) -> KeyArray:
    keys = np.empty(len(numbers), np.uint64)
    for i in range(len(numbers)):
        keys[i] = mix(key ^ mix(np.uint64(numbers[i]) + np.uint64(0x9E3779B97F4A7C15)))
    return keys


@_jit
def _shift(half: np.uint64, turn: int, key: np.uint64, width: np.uint64) -> np.uint64:
    seed = mix(key + np.uint64(turn + 1) * np.uint64(0x9E3779B97F4A7C15))
    moved: np.uint64 = scale(mix(half ^ seed), width)
    return moved


@_jit
def _forward(value: np.uint64, width: np.uint64, key: np.uint64) -> np.uint64:
    left, right = value // width, value % width
    for turn in range(ROUNDS):
        moved = left + _shift(right, turn, key, width)
        left, right = right, moved - width if moved >= width else moved
    return left * width + right


@_jit
def _backward(value: np.uint64, width: np.uint64, key: np.uint64) -> np.uint64:
    left, right = value // width, value % width
    for turn in range(ROUNDS - 1, -1, -1):
        moved = right + width - _shift(left, turn, key, width)
        left, right = moved - width if moved >= width else moved, left
    return left * width + right
