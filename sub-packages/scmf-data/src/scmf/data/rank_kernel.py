"""Compiled kernel of rank value encoding. In: CSR values of cells. Out: tokens of many cells.

A cell is sorted by one 64-bit word a gene: the complement of the float32 bits of its scaled value above, its
token below. Rising words are falling values, and equal values come in the order of their tokens: the order is
total, so no sort can disagree with another. Positive floats compare like their bits.

The sort is two radix passes over the highest bits that vary in the cell; the few words that agree in all of
those (and true ties) are finished by insertion. Floats that are not negative compare like their bits.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from scmf.data.part_table import pointer_to

Words = npt.NDArray[np.uint64]
Counters = npt.NDArray[np.uint32]

TARGET_SUM = 10_000.0
"""Counts of a cell are scaled to this sum before the median divides them. Source: Geneformer."""

DIGIT_BITS = 9
DIGITS = 1 << DIGIT_BITS
DIGIT = np.uint64(DIGITS - 1)
# Longer runs of equal values, whose columns need not be in the order of tokens, leave the quadratic sort.
INSERTION_LIMIT = 48

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def encode_cells(
    like: tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]],
    spans: tuple[Words, Words, npt.NDArray[np.int64]],
    genes: tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]],
    scratch: tuple[Words, Words, Counters, npt.NDArray[np.float64]],
    out: tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]],
    limit: int,
) -> int:
    """Write the highest `limit` gene tokens of each cell.

    Args:
        like: arrays of the types of the indices (unsigned integers) and of the data (these, or float32).
        spans: address of each cell's indices and of its data, (k,) uint64, and its number of values, (k,) int64.
        genes: token (n_columns,) int32, -1 for none; inverse median (n_columns,) float64.
        scratch: two arrays of words as long as the longest cell, (2 * DIGITS,) counters, and sums by token:
            (len(vocabulary),) float64 of zeros where two columns share a token, else (0,).
        out: ids, flat int32; start (k,) of each cell in it; length (k,), written.
        limit: genes kept a cell.

    Returns:
        -1, or the number of the first cell that names a column outside the table; nothing is written from there.
    """
    at_indices, at_data, stored = spans
    words, spare, counters, sums = scratch
    ids, starts, lengths = out
    for i in range(len(stored)):
        indices = numba.carray(pointer_to(at_indices[i]), (stored[i],), like[0].dtype)
        data = numba.carray(pointer_to(at_data[i]), (stored[i],), like[1].dtype)
        if highest_column(indices) >= len(genes[0]):
            return i
        if len(sums) > 0:
            n = words_of_shared(indices, data, genes, words, sums)
        else:
            n = words_of(indices, data, genes, words)
        kept = min(n, limit)
        sort_words(words[:n], spare, counters, kept)
        cell_ids = ids[starts[i] : starts[i] + kept]
        for j in range(kept):
            cell_ids[j] = words[j] & np.uint64(0xFFFFFFFF)
        lengths[i] = kept
    return -1


@_jit
def take_ranked(
    like: npt.NDArray[np.uint16],
    spans: tuple[Words, npt.NDArray[np.int64]],
    token: npt.NDArray[np.int32],
    out: tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]],
    limit: int,
    shared: bool,
) -> int:
    """Write the first `limit` tokens of cells whose genes stand in rank order, those without a token last.

    Args:
        like: empty array of the type of the indices.
        spans: address of each cell's indices, (k,) uint64, and its number of values, (k,) int64.
        token: (n_columns,) int32, -1 for none.
        out: ids, flat int32; start (k,) of each cell in it; length (k,), written.
        limit: genes kept a cell.
        shared: columns may share a token, so that behind the genes without a token others may follow.

    Returns:
        -1, or the number of the first cell that names a column outside the table.
    """
    ids, starts, lengths = out
    for i in range(len(spans[0])):
        kept = min(spans[1][i], limit)
        indices = numba.carray(pointer_to(spans[0][i]), (kept,), like.dtype)
        if kept > 0 and highest_column(indices) >= len(token):
            return i
        place = ids[starts[i] : starts[i] + kept]
        known = 0
        for j in range(kept):
            found = token[indices[j]]
            place[j] = found
            known += found >= 0  # a sum over all is vector code, a search for the end is not
        if shared and known > 0:
            known = 0
            while known < kept and place[known] >= 0:
                known += 1
        lengths[i] = known
    return -1


@_jit
def highest_column(indices: npt.NDArray[np.uint16]) -> int:
    """Highest column that a cell names, 0 for an empty cell. One look at all of them: a damaged array need not rise."""
    highest = 0
    for j in range(len(indices)):
        highest = max(highest, indices[j])
    return highest


@_jit
def _scale(data: npt.NDArray[np.uint16]) -> float:
    total = 0  # stays an integer where the counts are: integer sums are vectorised, float sums are not
    for j in range(len(data)):
        total += data[j]
    return TARGET_SUM / total


@_jit
def words_of(
    indices: npt.NDArray[np.uint16],
    data: npt.NDArray[np.uint16],
    genes: tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]],
    words: Words,
) -> np.int64:
    """Make the word of every value whose column has a token; returns how many."""
    token, inverse_median = genes
    scale = _scale(data)
    n = np.uint64(0)
    for j in range(len(data)):
        # No branch: half of the genes have no token, which no processor can foresee.
        t = token[indices[j]]
        words[n] = _word(data[j] * scale * inverse_median[indices[j]], t)
        n += np.uint64((t >= 0) & (data[j] > 0))
    return np.int64(n)


@_jit
def words_of_shared(
    indices: npt.NDArray[np.uint16],
    data: npt.NDArray[np.uint16],
    genes: tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]],
    words: Words,
    sums: npt.NDArray[np.float64],
) -> int:
    """Sum columns that share a token, then make the words; `sums` is zero again afterwards. Returns how many."""
    token, inverse_median = genes
    scale = _scale(data)
    n = 0
    for j in range(len(data)):
        t = token[indices[j]]
        if t >= 0 and data[j] > 0:
            if sums[t] == 0.0:
                words[n] = indices[j]
                n += 1
            sums[t] += data[j]
    for j in range(n):
        column = words[j]
        t = token[column]
        words[j] = _word(sums[t] * scale * inverse_median[column], t)
        sums[t] = 0.0
    return n


@_jit
def _word(value: float, token: int) -> np.uint64:
    bits = np.uint64(np.float32(value).view(np.uint32))
    return ((np.uint64(0xFFFFFFFF) - bits) << np.uint64(32)) | np.uint64(token)


@_jit
def sort_words(
    words: Words,
    spare: Words,
    counters: Counters,
    kept: int,
) -> None:
    """Put the `kept` smallest words in order, in place."""
    n = len(words)
    if n < 2:
        return
    low, high = words[0], words[0]
    for j in range(n):
        low, high = min(low, words[j]), max(high, words[j])
    shift = np.uint64(0)
    while ((high - low) >> shift) >> np.uint64(2 * DIGIT_BITS) != 0:
        shift += np.uint64(1)
    counters[:] = 0
    for j in range(n):
        digits = (words[j] - low) >> shift
        counters[digits & DIGIT] += 1
        counters[DIGITS + (digits >> np.uint64(DIGIT_BITS))] += 1
    small, large = np.uint32(0), np.uint32(0)
    for b in range(DIGITS):
        counters[b], small = small, small + counters[b]
        counters[DIGITS + b], large = large, large + counters[DIGITS + b]
    for j in range(n):
        digit = ((words[j] - low) >> shift) & DIGIT
        spare[counters[digit]] = words[j]
        counters[digit] += 1
    for j in range(n):
        digit = (spare[j] - low) >> (shift + np.uint64(DIGIT_BITS))
        words[counters[DIGITS + digit]] = spare[j]
        counters[DIGITS + digit] += 1
    _finish(words, kept, low, shift)


@_jit
def _finish(words: Words, kept: int, low: np.uint64, shift: np.uint64) -> None:
    """Order the few words whose sorted bits are equal by the bits below."""
    n = len(words)
    last = (words[kept - 1] - low) >> shift
    j = 1
    while j < n and (j < kept or (words[j] - low) >> shift == last):
        word = words[j]
        k = j
        while k > 0 and words[k - 1] > word and j - k < INSERTION_LIMIT:
            words[k] = words[k - 1]
            k -= 1
        words[k] = word
        j += 1
        if k > 0 and words[k - 1] > word:
            begin, end = k, j
            while begin > 0 and (words[begin - 1] - low) >> shift == (word - low) >> shift:
                begin -= 1
            while end < n and (words[end] - low) >> shift == (word - low) >> shift:
                end += 1
            words[begin:end].sort()
            j = end


@_jit
def close_gaps(
    ids: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    ends: tuple[int, int],
) -> npt.NDArray[np.int64]:
    """Move the cells together inside `ids` and frame those that have genes.

    Args:
        ids: (n,) int32; cell i has its genes from starts[i], or one later where sequences are framed.
        starts: (n_cells + 1,) int64 rising.
        lengths: (n_cells,) int64 genes of each cell.
        ends: ids of <cls> and <eos>, or (-1, -1).

    Returns:
        (n_cells + 1,) int64 offsets of the cells in `ids`.
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    to = 0
    framed = ends[0] >= 0
    for i in range(len(lengths)):
        if lengths[i] > 0:
            begin = starts[i]
            if framed:
                ids[to] = ends[0]
                begin += 1
                to += 1
            if begin != to:
                for j in range(lengths[i]):
                    ids[to + j] = ids[begin + j]
            to += lengths[i]
            if framed:
                ids[to] = ends[1]
                to += 1
        offsets[i + 1] = to
    return offsets
