"""This machine, measured. In: a config. Out: what steps of small microbatches of its cells take, and their memory.

The model is the run's own. Time is measured on small microbatches: one cell's length, and a few of them; what a run's
large ones take follows from the rates of their parts. Memory is looked at with a few of the run's own, where there is
time for them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scmf.core.batch import CellTargets, Microbatch, StepBatch
from scmf.core.errors import ConfigError
from scmf.model.device import peak_memory, wait_for
from scmf.model.transformer import VocabularyShape
from scmf.train.alignment import ALIGN
from scmf.train.config import MainConfig
from scmf.train.engine import Engine
from scmf.train.interval import peak_resident_bytes
from scmf.train.layout import Layout, lay_out
from scmf.train.plan.cost import Rates, Timing, fit_rates
from scmf.train.plan.probe_result import Measured
from scmf.train.plan.workload import Shape, shape_of
from scmf.train.run import open_cells, resolve
from scmf.train.world import join_world

SECONDS = 30.0
"""What a probe measures for, building not counted."""
_ROUNDS = 3
"""Least rounds: each measures every kind of step once, and a rate follows from the median of its rounds."""
_MOST = 4
"""Tokens of the largest microbatch, in sequence lengths."""
_OF_FULL_SIZE = 12
"""Microbatches of the run's own size, for memory."""
_PACKS = 6
"""Packs of different cells that are taken in turn: an allocator's peak shows only when sizes change."""


def probe(config: MainConfig, *, seconds: float = SECONDS) -> Measured:
    """Measure real steps of this config's model on its own cells, in this process alone.

    Args:
        config: of the run, its length in steps.
        seconds: to measure for; at least three rounds are measured however long they take.

    Raises:
        ConfigError: a layout of several ranks.
        ScmfError: what the run would raise at its start.
    """
    _refuse_ranks(config)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        stream = open_cells(_packed(config), layout)
        packs = _packs(stream)
        engine = _build(config, layout, vocabulary_size=len(stream.vocabulary))
        clock = _Clock(engine)
        begun = time.perf_counter()
        kinds = _kinds(packs, most=_affordable(clock, packs, seconds))
        rounds = _measure(clock, kinds, seconds=seconds, begun=begun)
        timed = time.perf_counter() - begun
        wall, processor = (clock.rates(config, by, vocabulary_size=len(stream.vocabulary)) for by in (0, 1))
        seen = [shape_of(m, packing=True) for m in kinds[1]]
        seen += _fill_memory(clock, config, layout, wall, seconds=seconds)
        largest = max(seen, key=lambda shape: shape.positions)
        peak = peak_memory(world.device) or peak_resident_bytes()
        return Measured(wall, processor, peak, largest, rounds=rounds, seconds=timed)


def _fill_memory(clock: _Clock, config: MainConfig, layout: Layout, wall: Rates, *, seconds: float) -> list[Shape]:
    """Microbatches of the run's own size, for their memory alone, as many as take no longer than the probe: 0 to 12.

    An allocator's waste cannot be computed from that of smaller ones.
    """
    stream = open_cells(config, layout)
    size, pad = len(stream.vocabulary), getattr(stream.vocabulary, "pad", None)
    seen: list[Shape] = []
    left = seconds
    for number in range(_OF_FULL_SIZE):
        microbatch = stream.step(number * config.data.global_batch_size).microbatches[0]
        shape = shape_of(microbatch, packing=config.data.packing, pad=pad)
        left -= wall.seconds(config.model, [shape], vocabulary_size=size)
        if left < 0:
            break
        clock.step([microbatch])
        seen.append(shape)
    return seen


def _refuse_ranks(config: MainConfig) -> None:
    ranks = config.trainer.parallel.model_ranks
    if ranks > 1:
        raise ConfigError(
            f"--probe measures in one process, and the layout takes {ranks} ranks a copy of the model",
            where="trainer.parallel",
            fix="leave out --probe; scmf-train --dry-run measures steps on all ranks",
        )


def _packed(config: MainConfig) -> MainConfig:
    """The config with packs of a few sequence lengths, whether it packs or not."""
    tokens = _MOST * config.data.tokenizer.seq_length
    data: dict[str, Any] = {"packing": True, "micro_batch_size": None, "microbatch_tokens": tokens}
    return config.replace(data=config.data.replace(**data))


def _build(config: MainConfig, layout: Layout, *, vocabulary_size: int) -> Engine:
    resolved = resolve(config, layout, config.trainer.steps)
    shape = VocabularyShape(size=vocabulary_size, seq_length=config.data.tokenizer.seq_length)
    return Engine(config, layout=layout, vocabulary=shape, max_steps=resolved.max_steps, precision=resolved.precision)


def _packs(stream: Any) -> list[Microbatch]:
    """Packs of the run's first cells."""
    batch, found = stream.config.global_batch_size, list[Microbatch]()
    for number in range(_PACKS):
        found += stream.step(number * batch).microbatches
        if len(found) >= _PACKS:
            break
    return sorted(found, key=lambda pack: -pack.tokens)[:_PACKS]


def first_cells(pack: Microbatch, *, tokens: int) -> Microbatch:
    """The first cells of a pack, up to so many tokens and at least one cell, as a pack of their own.

    Args:
        pack: cells end to end, padding behind them.
        tokens: most of them.
    """
    ends = pack.cu_seqlens[1 : len(pack.cell_ids) + 1]
    cells = max(1, int(np.searchsorted(ends, tokens, side="right")))
    used = int(ends[cells - 1])
    width = min(len(pack.input_ids), -(-used // ALIGN) * ALIGN)
    tail = np.append(np.arange(used, width, pack.longest)[1:], width) if width > used else np.zeros(0)
    targets = int(np.searchsorted(pack.target_positions, used))
    return replace(
        pack,
        input_ids=pack.input_ids[:width],
        positions=np.concatenate([pack.positions[:used], np.arange(width - used) % pack.longest]).astype(np.int32),
        cu_seqlens=np.concatenate([[0], ends[:cells], tail]).astype(np.int32),
        target_positions=pack.target_positions[:targets],
        targets=pack.targets[:targets],
        cell_ids=pack.cell_ids[:cells],
        tokens=used,
        cell_targets={name: _asked_of(targets, cells) for name, targets in pack.cell_targets.items()},
    )


def _asked_of(targets: CellTargets, cells: int) -> CellTargets:
    """What is asked of the first cells."""
    here = targets.segments < cells
    return CellTargets(targets.segments[here], targets.values[here])


def cells_cut_in_two(pack: Microbatch) -> Microbatch:
    """The same tokens in segments of half the length: half the pairs, everything else alike."""
    starts = pack.cu_seqlens
    middles = (starts[:-1] + np.diff(starts) // 2).astype(np.int32)
    bounds = np.unique(np.concatenate([starts, middles]))
    inside = np.arange(len(pack.input_ids)) - np.repeat(bounds[:-1], np.diff(bounds))
    return replace(
        pack,
        cu_seqlens=bounds,
        positions=inside.astype(np.int32),
        longest=int(np.diff(bounds).max()),
        cell_targets={
            name: replace(targets, segments=np.searchsorted(bounds, starts[targets.segments]).astype(np.int32))
            for name, targets in pack.cell_targets.items()
        },
    )


def _kinds(packs: Sequence[Microbatch], *, most: int) -> tuple[list[Microbatch], list[Microbatch], list[Microbatch]]:
    """Short packs, long ones, and long ones whose cells are cut in two."""
    long = [first_cells(pack, tokens=most) for pack in packs]
    short = [first_cells(pack, tokens=max(1, pack.tokens // 3)) for pack in long]
    return short, long, [cells_cut_in_two(pack) for pack in long]


def _affordable(clock: _Clock, packs: Sequence[Microbatch], seconds: float) -> int:
    """Tokens of the largest microbatch, so that four rounds takes the time; two short steps tell, and warm."""
    short = first_cells(packs[0], tokens=packs[0].tokens // _MOST)
    clock.step([short])
    wall, _ = clock.step([short])
    # A round is a short step, one of two short microbatches, a long step and another of about its length.
    lengths = (seconds / 4 / max(wall, 1e-4) - 3.0) / 2.0
    return int(max(2.0, min(float(_MOST), lengths)) * short.tokens)


def _measure(
    clock: _Clock, kinds: tuple[list[Microbatch], list[Microbatch], list[Microbatch]], *, seconds: float, begun: float
) -> int:
    """Measure rounds until the time is over; the first only warms. The number of rounds."""
    rounds = 0
    while rounds <= _ROUNDS or time.perf_counter() - begun < seconds:
        short, long, cut = ([kind[(rounds + i) % len(kind)] for i in (0, 1)] for kind in kinds)
        for step in (short[:1], short, long[:1], cut[:1]):
            clock.step(step, keep=rounds > 0)
        rounds += 1
    return rounds - 1


class _Clock:
    """Steps of an engine, timed.

    Args:
        engine: whose weights change as they do in a run.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._taken = 0
        self.timings: list[tuple[tuple[Shape, ...], tuple[float, float]]] = []

    def step(self, microbatches: Sequence[Microbatch], *, keep: bool = False) -> tuple[float, float]:
        """Seconds of one step by the clock, and of this process on all cores."""
        cells = sum(len(m.cell_ids) for m in microbatches)
        batch = StepBatch(tuple(microbatches), cells=cells, cell_ids=np.zeros(cells, np.int64))
        wall, processor = time.perf_counter(), time.process_time()
        self._engine.train_step(batch, step=self._taken)
        wait_for(self._engine.layout.world.device)
        took = (time.perf_counter() - wall, time.process_time() - processor)
        self._taken += 1
        if keep:
            self.timings.append((tuple(shape_of(m, packing=True) for m in microbatches), took))
        return took

    def rates(self, config: MainConfig, by: int, *, vocabulary_size: int) -> Rates:
        """Rates of one clock: of the wall (0) or of the processors (1)."""
        timings = [Timing(step, took[by]) for step, took in self.timings]
        return fit_rates(config.model, timings, vocabulary_size=vocabulary_size)
