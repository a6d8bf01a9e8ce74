"""Where a step's cells go. In: how long each cell is. Out: its replica, its microbatch and its place there.

Replicas share a step by upper bounds that need no values, so that each reads its own cells only. A replica
packs by true lengths: first-fit-decreasing finds how many packs the budget asks for, then the longest cell
goes to the emptiest pack, which leaves packs of nearly one length. That length, not the budget, is the shape
of the step.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from scmf.core.errors import ConfigError
from scmf.data.config import DataConfig

LongArray = npt.NDArray[np.int64]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True, slots=True)
class Layout:
    """Microbatches of one replica's step; all have the same number of positions."""

    positions: int
    """T, positions of every microbatch: cells and padding."""
    cells: tuple[LongArray, ...]
    """Of each microbatch, (C,) int64 numbers of its cells; cells without tokens are in none."""
    starts: tuple[LongArray, ...]
    """Of each microbatch, (C,) int64 first position of each cell, rising."""


def share_by_length(lengths: LongArray, *, n_replicas: int) -> LongArray:
    """Give every cell to a replica so that all have nearly equal tokens.

    The longest cell goes first, always to the replica with the fewest tokens so far (then the fewest cells,
    then the lowest number), which is within 4/3 of the best possible share.

    Args:
        lengths: (k,) int64 tokens of each cell, or upper bounds.
        n_replicas: how many share the cells.

    Returns:
        (k,) int64 replica of each cell.

    Source: Graham, Bounds on Multiprocessing Timing Anomalies, 1969 (longest processing time first).
    """
    replica: LongArray = _longest_first(lengths, _falling(lengths), n_replicas)
    return replica


def share_by_count(n_cells: int, *, n_replicas: int) -> LongArray:
    """Give every replica as many cells as the next, consecutive ones; for padded batches. (n_cells,) int64."""
    return np.arange(n_cells, dtype=np.int64) * n_replicas // max(1, n_cells)


def share_by_neighbourhood(cell_ids: LongArray, lengths: LongArray, *, n_replicas: int) -> LongArray:
    """Give neighbours in the store to one replica, all replicas nearly equal tokens.

    The cells in the order of their ids are cut into stretches. A window's blocks are the same for all of its steps,
    so a replica meets the same blocks in each, and a block is read by one replica, or by two where a cut wanders.

    Args:
        cell_ids: (k,) int64.
        lengths: (k,) int64 tokens of each cell, or upper bounds; ones share by count.
        n_replicas: how many share the cells.

    Returns:
        (k,) int64 replica of each cell. With equal lengths and a multiple of `n_replicas` the counts are equal.
    """
    order = np.argsort(cell_ids, kind="stable")
    sizes = np.maximum(lengths[order], 1)
    middle = np.cumsum(sizes) - sizes / 2
    replica = np.empty(len(cell_ids), np.int64)
    replica[order] = np.minimum((middle * n_replicas / sizes.sum()).astype(np.int64), n_replicas - 1)
    return replica


def packed_layout(lengths: LongArray, *, budget: int, align: int) -> Layout:
    """Lay whole cells end to end in as few microbatches as first-fit needs, and make those equal.

    Args:
        lengths: (k,) int64 tokens of each cell, 0..budget.
        budget: most positions of a microbatch.
        align: positions are a multiple of this; the budget counts as the multiple below it, or above it where
            a cell needs that.
    """
    longest = int(lengths.max(initial=0))
    budget = max(budget // align * align, _round_up(longest, align))
    filled = np.flatnonzero(lengths)
    order = filled[_falling(lengths[filled])]
    pack = _first_fit(lengths, order, budget)
    n_packs = int(pack[filled].max(initial=-1)) + 1
    even = _longest_first(lengths, order, n_packs)
    if n_packs and np.bincount(even[filled], weights=lengths[filled]).max() <= budget:
        pack = even
    packed = filled[np.argsort(pack[filled], kind="stable")]
    n_cells = np.bincount(pack[filled], minlength=max(1, n_packs))
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_cells)])
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[packed])])
    starts = ends[:-1] - np.repeat(ends[bounds[:-1]], n_cells)
    used = int(np.diff(ends[bounds]).max())
    spans = [slice(a, b) for a, b in itertools.pairwise(bounds.tolist())]
    cells = tuple(packed[span] for span in spans)
    return Layout(max(align, _round_up(used, align)), cells, tuple(starts[span] for span in spans))


def padded_layout(lengths: LongArray, *, cells: int, align: int) -> Layout:
    """Give every cell the room of the longest of its microbatch.

    Args:
        lengths: (k,) int64 tokens of each cell.
        cells: cells of a microbatch; the last may have fewer.
        align: positions are a multiple of this.
    """
    filled = np.flatnonzero(lengths)
    groups = [filled[i : i + cells] for i in range(0, len(filled), cells)] or [filled]
    multiple = align // math.gcd(align, cells)
    widths = [_round_up(int(lengths[members].max(initial=0)), multiple) for members in groups]
    starts = [np.arange(len(members)) * width for members, width in zip(groups, widths, strict=True)]
    used = max(len(members) * width for members, width in zip(groups, widths, strict=True))
    return Layout(max(align, _round_up(used, align)), tuple(groups), tuple(starts))


def layout_of(lengths: LongArray, data: DataConfig, *, align: int) -> Layout:
    """Packed or padded, as a `data` section asks for.

    Args:
        lengths: (k,) int64 tokens of each cell.
        data: the section.
        align: positions are a multiple of this.

    Raises:
        ConfigError: a section that was not checked has no size for its kind of microbatch.
    """
    budget, cells = data.microbatch_tokens, data.micro_batch_size
    if data.packing and budget is not None:
        return packed_layout(lengths, budget=budget, align=align)
    if not data.packing and cells is not None:
        return padded_layout(lengths, cells=cells, align=align)
    raise ConfigError(
        f"packing={data.packing} with microbatch_tokens={budget} and micro_batch_size={cells}",
        where="data",
        fix="packing needs microbatch_tokens, padding needs micro_batch_size",
    )


def _falling(lengths: LongArray) -> LongArray:
    return np.argsort(-lengths, kind="stable")


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@_jit
def _first_fit(lengths: LongArray, order: LongArray, budget: int) -> LongArray:
    """Pack of each cell: the first one with room for it. (k,) int64; cells outside `order` stay in 0."""
    pack = np.zeros(len(lengths), np.int64)
    room = np.empty(len(order), np.int64)
    n = 0
    for cell in order:
        p = 0
        while p < n and room[p] < lengths[cell]:
            p += 1
        if p == n:
            room[n] = budget
            n += 1
        room[p] -= lengths[cell]
        pack[cell] = p
    return pack


@_jit
def _longest_first(lengths: LongArray, order: LongArray, n_bins: int) -> LongArray:
    """Bin of each cell: the emptiest when its turn comes. (k,) int64; cells outside `order` stay in 0."""
    bins = np.zeros(len(lengths), np.int64)
    load = np.zeros(n_bins, np.int64)
    count = np.zeros(n_bins, np.int64)
    for cell in order:
        best = 0
        for b in range(1, n_bins):
            if load[b] < load[best] or (load[b] == load[best] and count[b] < count[best]):
                best = b
        bins[cell] = best
        load[best] += lengths[cell]
        count[best] += 1
    return bins
