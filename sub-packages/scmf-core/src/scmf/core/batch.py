"""The one type in which data and model meet: a pack of whole cells, laid end to end.

Data makes it (NumPy, CPU); training moves it to the device; the model reads it.

Shapes: T positions of the pack, M corrupted positions (targets), S segments (cells, then unused tail), C cells,
L labelled cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CellTargets:
    """What one objective asks about whole cells of a pack. A cell without a label has no entry."""

    segments: IntArray
    """(L,) int32 numbers of the segments of the labelled cells, each once."""
    values: npt.NDArray[np.int32] | npt.NDArray[np.float32]
    """(L,) int32 class of each, from 0; or float32 number, standardised."""


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Whole cells laid end to end, with the places where they meet.

    Attention runs inside a segment only. Segments are the cells, interleaved with or followed by padding
    segments that belong to no cell; together they cover all T positions. No segment is longer than `longest`.
    A padded batch is the same thing with every cell followed by padding up to one width.
    """

    input_ids: IntArray
    """(T,) int32 token ids after corruption; padding positions hold the pad id."""
    positions: IntArray
    """(T,) int32 position inside the segment, from 0; always below the model's sequence length."""
    cu_seqlens: IntArray
    """(S + 1,) int32 first position of each segment; starts at 0, ends at T."""
    target_positions: IntArray
    """(M,) int32 positions in the pack whose token is to be predicted, rising."""
    targets: IntArray
    """(M,) int32 original token ids at those positions."""
    cell_ids: LongArray
    """(C,) int64 ids of the cells in the order in which they lie in the pack."""
    tokens: int
    """Real tokens: positions that belong to cells."""
    longest: int
    """Upper bound of the segment lengths, for kernels that take one; at most the sequence length."""
    cell_targets: Mapping[str, CellTargets] = field(default_factory=dict)
    """Targets of the objectives about whole cells, by the objective's name."""


@dataclass(frozen=True, slots=True)
class ReplacedCell:
    """A cell that could not be read, and the one that stands in for it."""

    cell_id: int
    instead: int
    why: str

    def __str__(self) -> str:
        return f"cell {self.cell_id:,} cannot be read ({self.why}); cell {self.instead:,} is in its place"


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One optimizer step's work for one data-parallel replica. All microbatches have the same T."""

    microbatches: tuple[Microbatch, ...]
    cells: int
    """Cells of the step over all replicas."""
    cell_ids: LongArray
    """(cells,) int64 ids of the step over all replicas, in the order in which they were drawn."""
    replaced: tuple[ReplacedCell, ...] = ()
    """Cells of this replica's share that could not be read."""
