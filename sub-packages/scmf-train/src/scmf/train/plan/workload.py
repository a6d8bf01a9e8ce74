"""What one replica has to compute. In: a stream of step batches, or lengths of cells. Out: shapes of microbatches.

The steps looked at are real ones, spread over the run, so that weights that change, curricula, truncation and packing
are in the numbers as they will be in the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scmf.core.batch import Microbatch, StepBatch
from scmf.core.random import stream as random_stream
from scmf.data.config import DataConfig
from scmf.data.packing import Layout, layout_of
from scmf.data.step_stream import StepStream

LongArray = npt.NDArray[np.int64]

CELLS = 2048
"""Cells of a replica that are looked at: the mean length of cells is then known to about 1%."""
MOST_STEPS = 64
"""Steps that are looked at where a step has few cells."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One microbatch, as far as its cost depends on it."""

    positions: int
    """T, padding included."""
    targets: int
    cells: LongArray
    """(C,) int64 tokens of each cell, or of each piece of windows that go over the ends of texts."""
    segments: LongArray
    """(S,) int64 lengths of all segments, padding included; their sum is T."""

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return int(self.cells.sum())


@dataclass(frozen=True, slots=True)
class Workload:
    """Steps of the run as its first data-parallel replica sees them."""

    steps: tuple[tuple[Shape, ...], ...]
    """Microbatches of each step that was looked at, on the first replica."""
    lengths: LongArray
    """(n,) int64 tokens of cells over all replicas, rising."""
    batch: int
    """Cells a step, all replicas together."""
    replicas: int
    vocabulary_size: int
    noun: str = "cell"
    """What one unit is called: a window for text."""
    source: str = ""
    """Where the lengths come from, for people."""
    pieces: float = 1.0
    """Lengths a cell: above 1 where windows go over the ends of texts."""

    @property
    def shapes(self) -> list[Shape]:
        """Microbatches of all steps looked at."""
        return [shape for step in self.steps for shape in step]

    @property
    def tokens_per_step(self) -> float:
        """Real tokens of a step, all replicas together."""
        return float(self.lengths.mean()) * self.pieces * self.batch

    @property
    def target_share(self) -> float:
        """Targets of a token."""
        return sum(shape.targets for shape in self.shapes) / max(1, sum(shape.tokens for shape in self.shapes))

    @property
    def microbatches(self) -> float:
        """Microbatches of a step on one replica, on average."""
        return len(self.shapes) / len(self.steps)

    @property
    def fill(self) -> float:
        """Share of the positions that are real tokens."""
        return sum(s.tokens for s in self.shapes) / max(1, sum(s.positions for s in self.shapes))


def look_at_stream(first: StepStream, whole: StepStream, *, max_steps: int, replicas: int) -> Workload:
    """Steps of a run, spread evenly from its first to its last.

    Args:
        first: of the first of the replicas.
        whole: of a single replica, for what all of them have together; the same where there is one.
        max_steps: of the run.
        replicas: that share a step's cells.

    Raises:
        StoreError: the store is damaged.
    """
    steps = [shapes for shapes in _steps(first, max_steps, cells=CELLS * replicas) if shapes]
    seen = steps if first is whole else _steps(whole, max_steps, cells=CELLS)
    lengths = np.sort(np.concatenate([shape.cells for shapes in seen for shape in shapes]))
    batch = whole.config.global_batch_size
    return Workload(
        steps=tuple(steps),
        lengths=lengths,
        batch=batch,
        replicas=replicas,
        vocabulary_size=len(whole.vocabulary),
        noun=whole.noun,
        source=f"{len(seen):,} of the run's {max_steps:,} steps, from its first to its last",
        pieces=len(lengths) / (len(seen) * batch),
    )


def _steps(stream: StepStream, max_steps: int, *, cells: int) -> list[tuple[Shape, ...]]:
    """Shapes of steps over the run, of about so many cells."""
    batch = stream.config.global_batch_size
    wanted = min(max_steps, MOST_STEPS, max(2, math.ceil(cells / batch)))
    numbers = np.unique(np.linspace(0, max_steps - 1, wanted).astype(np.int64)).tolist()
    return [
        shapes_of(stream.step(number * batch), packing=stream.config.packing, pad=_pad(stream)) for number in numbers
    ]


def shapes_of(batch: StepBatch, *, packing: bool, pad: int | None = None) -> tuple[Shape, ...]:
    """The microbatches of a step.

    Args:
        batch: of one replica.
        packing: cells lie end to end; otherwise padding may lie between them.
        pad: token of padding, which then tells cells and padding apart.
    """
    return tuple(shape_of(microbatch, packing=packing, pad=pad) for microbatch in batch.microbatches)


def shape_of(microbatch: Microbatch, *, packing: bool, pad: int | None = None) -> Shape:
    """One microbatch; arguments as `shapes_of`."""
    starts, segments = microbatch.cu_seqlens[:-1], np.diff(microbatch.cu_seqlens).astype(np.int64)
    if packing or pad is None:
        cells = segments[starts < microbatch.tokens]
    else:
        cells = segments[microbatch.input_ids[starts] != pad]
    return Shape(len(microbatch.input_ids), len(microbatch.targets), cells, segments)


def look_at_lengths(
    lengths: LongArray, data: DataConfig, *, share: float, replicas: int, align: int, vocabulary_size: int
) -> Workload:
    """Steps of cells drawn from a list of lengths, laid into microbatches as those of a store are.

    Args:
        lengths: (n,) int64 tokens of cells, >= 1; drawn with replacement, cut at the sequence length.
        data: the `data` section.
        share: of the tokens that is predicted.
        replicas: that share a step's cells.
        align: positions of a microbatch are a multiple of this.
        vocabulary_size: before padding.
    """
    cells = max(1, data.global_batch_size // replicas)
    n_steps = max(2, min(MOST_STEPS, math.ceil(CELLS / cells)))
    cut = np.minimum(lengths, data.tokenizer.seq_length)
    drawn = random_stream(0, "plan/lengths").choice(cut, (n_steps, cells)).astype(np.int64)
    return Workload(
        steps=tuple(_lay_out(step, data, share=share, align=align) for step in drawn),
        lengths=np.sort(cut),
        batch=data.global_batch_size,
        replicas=replicas,
        vocabulary_size=vocabulary_size,
        source="--lengths" if len(lengths) > 1 else "--lengths, like all others",
    )


def _lay_out(lengths: LongArray, data: DataConfig, *, share: float, align: int) -> tuple[Shape, ...]:
    layout = layout_of(lengths, data, align=align)
    return tuple(
        _laid(lengths[members], starts, layout, share=share)
        for members, starts in zip(layout.cells, layout.starts, strict=True)
    )


def _laid(cells: LongArray, starts: LongArray, layout: Layout, *, share: float) -> Shape:
    """Cells, and a segment of padding in every gap."""
    gaps = np.diff(np.append(starts, layout.positions)) - cells
    segments = np.concatenate([cells, gaps[gaps > 0]])
    return Shape(layout.positions, round(share * int(cells.sum())), cells, segments)


def largest_shape(data: DataConfig, *, share: float, align: int) -> Shape:
    """The largest microbatch that the section allows, in cells of full length: what has to fit into memory.

    Args:
        data: the `data` section.
        share: of the tokens that is predicted.
        align: positions are a multiple of this.
    """
    longest = data.tokenizer.seq_length
    asked = data.microbatch_tokens or (data.micro_batch_size or 1) * longest
    return full_shape(-(-asked // align) * align, longest=longest, share=share)


def full_shape(positions: int, *, longest: int, share: float) -> Shape:
    """A microbatch without padding, of cells of full length and what is left."""
    whole, rest = divmod(positions, longest)
    cells = np.array([longest] * whole + [rest] * (rest > 0), np.int64)
    return Shape(positions, math.ceil(share * positions), cells, cells)


def quantiles(lengths: Sequence[int] | LongArray) -> tuple[int, int, int]:
    """Lengths below which 5%, half and 95% of the cells are."""
    low, middle, high = np.quantile(lengths, (0.05, 0.5, 0.95), method="nearest").astype(int).tolist()
    return low, middle, high


def _pad(stream: StepStream) -> int | None:
    pad = getattr(stream.vocabulary, "pad", None)
    return pad if isinstance(pad, int) else None
