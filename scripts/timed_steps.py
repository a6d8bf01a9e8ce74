"""Engines and batches for the benchmarks of training. In: sizes and lengths of cells. Out: steps that can be timed.

The lengths are those of real cells, from a file, or log-normal; the tokens are drawn, because their identity
does not change the time that they take.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scmf.core.batch import Microbatch, StepBatch
from scmf.core.random import stream
from scmf.data.packing import Layout as PackLayout
from scmf.data.packing import packed_layout, padded_layout

LongArray = npt.NDArray[np.int64]
SELECT = 0.15
ALIGN = 128


def read_lengths(path: Path | None, *, seq_length: int, cells: int) -> LongArray:
    """Tokens of so many cells, cut at the sequence length.

    Args:
        path: .npy or text, a length a cell; None draws them log-normally: 1,223 tokens a cell on average where
            they are cut at 2,048.
        seq_length: most tokens a cell.
        cells: how many; those of a file come again from its beginning where it has fewer.
    """
    if path is None:
        lengths = stream(0, "lengths").lognormal(np.log(1300.0), 0.55, cells)
    else:
        lengths = np.resize(np.load(path) if path.suffix == ".npy" else np.loadtxt(path), cells)
    clipped: LongArray = np.clip(lengths, 16, seq_length).astype(np.int64)
    return clipped


def packed(lengths: LongArray, *, budget: int) -> PackLayout:
    """Cells laid end to end, up to `budget` positions."""
    return packed_layout(lengths, budget=budget, align=ALIGN)


def padded(lengths: LongArray, *, cells: int, width: int | None = None) -> PackLayout:
    """Every cell padded to the longest of its microbatch, or to `width`."""
    layout = padded_layout(lengths, cells=cells, align=8)
    if width is None:
        return layout
    starts = tuple(np.arange(len(members)) * width for members in layout.cells)
    return PackLayout(width * cells, layout.cells, starts)


def step_of(lengths: LongArray, layout: PackLayout, *, vocabulary: int, seq_length: int) -> StepBatch:
    """One step of drawn tokens, 15% of which are masked.

    Args:
        lengths: tokens of each cell.
        layout: where each lies.
        vocabulary: tokens to draw from.
        seq_length: longest segment.
    """
    microbatches = tuple(
        _microbatch(lengths[members], starts, width=layout.positions, sizes=(vocabulary, seq_length))
        for members, starts in zip(layout.cells, layout.starts, strict=True)
    )
    return StepBatch(microbatches=microbatches, cells=len(lengths), cell_ids=np.arange(len(lengths)))


def _microbatch(lengths: LongArray, starts: LongArray, *, width: int, sizes: tuple[int, int]) -> Microbatch:
    rng = stream(0, "tokens", width, len(lengths))
    vocabulary, seq_length = sizes
    ids = np.zeros(width, np.int32)
    chosen = []
    for start, length in zip(starts, lengths, strict=True):
        ids[start : start + length] = rng.integers(2, vocabulary, length)
        chosen.append(start + np.sort(rng.choice(length, max(1, round(SELECT * length)), replace=False)))
    where = np.concatenate(chosen).astype(np.int32)
    targets = ids[where].copy()
    ids[where] = 1
    bounds = _segments(starts, lengths, width=width, longest=seq_length)
    return Microbatch(
        input_ids=ids,
        positions=np.concatenate([np.arange(b - a) for a, b in itertools.pairwise(bounds)]).astype(np.int32),
        cu_seqlens=np.array(bounds, np.int32),
        target_positions=where,
        targets=targets,
        cell_ids=np.arange(len(lengths)),
        tokens=int(lengths.sum()),
        longest=max(b - a for a, b in itertools.pairwise(bounds)),
    )


def _segments(starts: LongArray, lengths: LongArray, *, width: int, longest: int) -> list[int]:
    """Bounds of the cells and of the padding between and after them."""
    bounds = [0]
    for start, length in [*zip(starts.tolist(), lengths.tolist(), strict=True), (width, 0)]:
        while bounds[-1] < start:
            bounds.append(min(start, bounds[-1] + longest))
        if length:
            bounds.append(start + length)
    return bounds


def real_tokens(batches: Sequence[StepBatch]) -> int:
    """Tokens of cells, without padding."""
    return sum(m.tokens for batch in batches for m in batch.microbatches)
