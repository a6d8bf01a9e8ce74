"""Microbatches. In: tokens of whole cells and their layout. Out: what the model sees and must predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

from scmf.core.batch import Microbatch
from scmf.data.labels import Labels, with_cell_targets
from scmf.data.masks import Corruption, choose_targets, corrupt, seeds_of, word_of
from scmf.data.packing import Layout
from scmf.data.rank import Tokens
from scmf.data.vocabulary import Vocabulary

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_NO_GENE: Final = 2**31 - 1
"""Above every token id: a first gene that leaves no gene to be chosen."""


@dataclass(frozen=True, slots=True)
class Collator:
    """Corrupts cells and lays them into microbatches."""

    vocabulary: Vocabulary
    seq_length: int
    """No segment, of padding neither, is longer."""
    corruption: Corruption | None
    """None leaves the cells as they are, without targets among their tokens."""
    labels: Mapping[str, Labels] = field(default_factory=dict)
    """Targets of whole cells, by the objective's name."""

    def collate(self, tokens: Tokens, *, cell_ids: LongArray, keys: KeyArray, layout: Layout) -> tuple[Microbatch, ...]:
        """Make the microbatches of a layout.

        Args:
            tokens: tokens of the cells that the layout numbers.
            cell_ids: (k,) int64 id of each of those cells.
            keys: (k,) uint64 key of each cell's corruption.
            layout: which cell goes where.
        """
        vocabulary, corruption = self.vocabulary, self.corruption or Corruption(1.0, 0.0, 0.0)
        first_gene = _NO_GENE if self.corruption is None else vocabulary.first_gene
        what = (
            (layout.positions, self.seq_length),
            (vocabulary.pad, vocabulary.mask, first_gene, len(vocabulary.gene_ids)),
            (corruption.threshold, corruption.mask, corruption.random),
        )
        laid = []
        for places in zip(layout.cells, layout.starts, strict=True):
            fields = lay_microbatch((tokens.ids, tokens.offsets), (cell_ids, keys), places, *what)
            laid.append(with_cell_targets(Microbatch(*fields), self.labels, starts=places[1]))
        return tuple(laid)


@_jit
def lay_microbatch(
    tokens: tuple[IntArray, LongArray],
    cells: tuple[LongArray, KeyArray],
    places: tuple[LongArray, LongArray],
    shape: tuple[int, int],
    vocabulary: tuple[int, int, int, int],
    corruption: tuple[np.uint64, float, float],
) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray, LongArray, int, int]:
    """Make the arrays of one microbatch.

    Args:
        tokens: ids, flat int32; offsets (k + 1,) int64.
        cells: id and key of each cell in `tokens`, (k,) each.
        places: number in `tokens` and first position of each cell of the microbatch, (C,) int64 each.
        shape: T and the longest segment.
        vocabulary: id of <pad>, id of <mask>, first gene token, number of gene tokens.
        corruption: threshold of the choice, probability of <mask>, probability of a random gene.

    Returns:
        The fields of `Microbatch`, in their order.
    """
    _, offsets = tokens
    members, starts = places
    lengths = offsets[members + 1] - offsets[members]
    cell_ids, keys = cells[0][members], cells[1][members]
    input_ids = np.full(shape[0], vocabulary[0], np.int32)
    positions = np.empty(shape[0], np.int32)
    cu_seqlens = lay_segments(lengths, starts, shape[0], shape[1], positions)
    targets, target_positions = lay_cells(tokens, (members, starts, cell_ids, keys), vocabulary, corruption, input_ids)
    longest = 0
    for s in range(len(cu_seqlens) - 1):
        longest = max(longest, cu_seqlens[s + 1] - cu_seqlens[s])
    return input_ids, positions, cu_seqlens, target_positions, targets, cell_ids, lengths.sum(), longest


@_jit
def lay_segments(
    lengths: LongArray, starts: LongArray, n_positions: int, seq_length: int, positions: IntArray
) -> IntArray:
    """Tile a microbatch: a segment for each cell, and padding segments for every gap between them.

    Args:
        lengths: (C,) int64 tokens of each cell, at least 1.
        starts: (C,) int64 first position of each cell, rising, cells not overlapping.
        n_positions: T.
        seq_length: longest segment.
        positions: (T,) int32, written: position inside the segment.

    Returns:
        (S + 1,) int32 first position of each segment, and T.
    """
    bounds = np.empty(2 * len(starts) + n_positions // seq_length + 2, np.int32)
    n = 0
    at = 0
    for i in range(len(starts) + 1):
        until = starts[i] if i < len(starts) else n_positions
        while at < until:
            bounds[n] = at
            n += 1
            at = min(at + seq_length, until)
        if i < len(starts):
            bounds[n] = at
            n += 1
            at += lengths[i]
    bounds[n] = n_positions
    for s in range(n):
        segment = positions[bounds[s] : bounds[s + 1]]
        for j in range(len(segment)):
            segment[j] = j
    return bounds[: n + 1].copy()


@_jit
def lay_cells(
    tokens: tuple[IntArray, LongArray],
    cells: tuple[LongArray, LongArray, LongArray, KeyArray],
    vocabulary: tuple[int, int, int, int],
    corruption: tuple[np.uint64, float, float],
    input_ids: IntArray,
) -> tuple[IntArray, IntArray]:
    """Copy cells to their places and corrupt them there.

    Args:
        tokens: ids, flat int32; offsets (k + 1,) int64.
        cells: number in `tokens`, first position, cell id and key of each cell, (C,) each.
        vocabulary: id of <pad>, id of <mask>, first gene token, number of gene tokens.
        corruption: threshold of the choice, probability of <mask>, probability of a random gene.
        input_ids: (T,) int32, written where cells lie.

    Returns:
        targets and target_positions, (M,) int32 each, positions rising.
    """
    ids, offsets = tokens
    members, starts, cell_ids, keys = cells
    _, mask, first_gene, n_genes = vocabulary
    targets = np.empty(len(input_ids), np.int32)
    target_positions = np.empty(len(input_ids), np.int32)
    chosen = np.empty(len(input_ids) + 1, np.int32)
    n = 0
    for i in range(len(members)):
        cell = ids[offsets[members[i]] : offsets[members[i] + 1]]
        place = input_ids[starts[i] : starts[i] + len(cell)]
        place[:] = cell
        choose, change = seeds_of(keys[i], cell_ids[i])
        for j in chosen[: choose_targets(cell, first_gene, choose, corruption[0], chosen)]:
            targets[n] = cell[j]
            target_positions[n] = starts[i] + j
            word = word_of(change, j)
            place[j] = corrupt(cell[j], word, (first_gene, n_genes), (mask, corruption[1], corruption[2]))
            n += 1
    return targets[:n].copy(), target_positions[:n].copy()
