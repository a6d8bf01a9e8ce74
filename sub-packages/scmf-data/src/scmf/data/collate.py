"""Microbatches. In: tokens of whole cells and their layout. Out: what the model sees and must predict."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from scmf.core.batch import Microbatch
from scmf.data.masks import Corruption, choose_targets, corrupt, seed_of, word_of
from scmf.data.packing import Layout
from scmf.data.rank import Tokens
from scmf.data.vocabulary import Vocabulary

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True, slots=True)
class Collator:
    """Corrupts cells and lays them into microbatches."""

    vocabulary: Vocabulary
    seq_length: int
    """No segment, of padding neither, is longer."""
    corruption: Corruption

    def collate(self, tokens: Tokens, *, cell_ids: LongArray, keys: KeyArray, layout: Layout) -> tuple[Microbatch, ...]:
        """Make the microbatches of a layout.

        Args:
            tokens: tokens of the cells that the layout numbers.
            cell_ids: (k,) int64 id of each of those cells.
            keys: (k,) uint64 key of each cell's corruption.
            layout: which cell goes where.
        """
        return tuple(
            self._microbatch(tokens, (cell_ids, keys), layout.positions, (members, starts))
            for members, starts in zip(layout.cells, layout.starts, strict=True)
        )

    def _microbatch(
        self,
        tokens: Tokens,
        cells: tuple[LongArray, KeyArray],
        n_positions: int,
        places: tuple[LongArray, LongArray],
    ) -> Microbatch:
        vocabulary, corruption = self.vocabulary, self.corruption
        cell_ids, keys = cells
        members, starts = places
        input_ids = np.full(n_positions, vocabulary.pad, np.int32)
        positions = np.empty(n_positions, np.int32)
        lengths = tokens.offsets[members + 1] - tokens.offsets[members]
        cu_seqlens = lay_segments(lengths, starts, n_positions, self.seq_length, positions)
        targets, target_positions = lay_cells(
            (tokens.ids, tokens.offsets),
            (members, starts, cell_ids[members], keys[members]),
            (vocabulary.first_gene, len(vocabulary.gene_ids)),
            (vocabulary.mask, corruption.mask, corruption.random),
            corruption.threshold,
            input_ids,
        )
        return Microbatch(
            input_ids=input_ids,
            positions=positions,
            cu_seqlens=cu_seqlens,
            target_positions=target_positions,
            targets=targets,
            cell_ids=cell_ids[members],
            tokens=int(lengths.sum()),
            longest=int(np.diff(cu_seqlens).max()),
        )


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
        for j in range(bounds[s + 1] - bounds[s]):
            positions[bounds[s] + j] = j
    return bounds[: n + 1].copy()


@_jit
def lay_cells(
    tokens: tuple[IntArray, LongArray],
    cells: tuple[LongArray, LongArray, LongArray, KeyArray],
    genes: tuple[int, int],
    mask: tuple[int, float, float],
    threshold: np.uint64,
    input_ids: IntArray,
) -> tuple[IntArray, IntArray]:
    """Copy cells to their places and corrupt them there.

    Args:
        tokens: ids, flat int32; offsets (k + 1,) int64.
        cells: number in `tokens`, first position, cell id and key of each cell, (C,) each.
        genes: first gene token and number of gene tokens.
        mask: id of <mask>, probability of <mask>, probability of a random gene.
        threshold: highest word that chooses a target.
        input_ids: (T,) int32, written where cells lie.

    Returns:
        targets and target_positions, (M,) int32 each, positions rising.
    """
    ids, offsets = tokens
    members, starts, cell_ids, keys = cells
    targets = np.empty(len(input_ids), np.int32)
    target_positions = np.empty(len(input_ids), np.int32)
    chosen = np.empty(len(input_ids), np.int64)
    n = 0
    for i in range(len(members)):
        cell = ids[offsets[members[i]] : offsets[members[i] + 1]]
        place = input_ids[starts[i] : starts[i] + len(cell)]
        place[:] = cell
        seed = seed_of(keys[i], cell_ids[i])
        n_chosen = choose_targets(cell, genes[0], seed, threshold, chosen)
        for j in chosen[:n_chosen]:
            targets[n] = cell[j]
            target_positions[n] = starts[i] + j
            place[j] = corrupt(cell[j], word_of(seed, j), genes, mask)
            n += 1
    return targets[:n].copy(), target_positions[:n].copy()
