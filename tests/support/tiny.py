"""A tiny run of the engine on drawn tokens, for tests of layouts, packs and checkpoints, on any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.batch import Microbatch, StepBatch
from scmf.core.errors import CheckpointError
from scmf.model.transformer import VocabularyShape
from scmf.train.config import MainConfig
from scmf.train.engine import Engine, StepReport
from scmf.train.layout import Layout, lay_out
from scmf.train.world import join_world

VOCABULARY = VocabularyShape(size=900, seq_length=64)


def tiny_config(**changes: Any) -> MainConfig:
    """A valid config; `changes` are dotted keys with double underscores, such as trainer__parallel__tensor=2."""
    values: dict[str, Any] = {
        "data": {
            "kind": "cells",
            "store": "unused",
            "tokenizer": {"kind": "rank", "vocabulary": "geneformer-v1", "seq_length": VOCABULARY.seq_length},
            "global_batch_size": 8,
            "microbatch_tokens": 256,
        },
        "model": {"kind": "encoder", "layers": 4, "hidden": 64, "ffn": 128, "heads": 4},
        "trainer": {
            "max_steps": 1000,
            "optimizer": {"kind": "adamw", "lr": 3e-3},
            "schedule": {"kind": "cosine", "warmup_steps": 3},
            "result_dir": "unused",
        },
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        section = values
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
    return MainConfig.parse(values, source="tiny_config")


def drawn_step(step: int, *, replica: int, replicas: int) -> StepBatch:
    """Eight cells of learnable tokens, four a microbatch, the same whatever the number of replicas."""
    cells = [_cell(8 * step + i) for i in range(8)]
    own = cells[replica::replicas]
    packs = tuple(pack(own[i : i + 4]) for i in range(0, len(own), 4))
    return StepBatch(microbatches=packs, cells=8, cell_ids=np.arange(8 * step, 8 * step + 8))


@dataclass
class Cell:
    """Tokens of one cell and its masked positions."""

    number: int
    tokens: np.ndarray[Any, Any]
    masked: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0, np.int32))


def _cell(number: int) -> Cell:
    rng = np.random.default_rng([7, number])
    length = int(rng.integers(20, 60))
    tokens = (2 + (number % 5) * 100 + (rng.random(length) ** 2 * 100)).astype(np.int32)
    masked = np.sort(rng.choice(length, max(1, length // 6), replace=False)).astype(np.int32)
    return Cell(number, tokens, masked)


def pack(cells: list[Cell], width: int = 256) -> Microbatch:
    """Cells end to end, the tail as padding segments."""
    lengths = [len(c.tokens) for c in cells]
    starts = np.cumsum([0, *lengths])
    used = int(starts[-1])
    tails = [min(VOCABULARY.seq_length, width - p) for p in range(used, width, VOCABULARY.seq_length)]
    segments = lengths + tails
    ids = np.zeros(width, np.int32)
    ids[:used] = np.concatenate([np.where(np.isin(np.arange(len(c.tokens)), c.masked), 1, c.tokens) for c in cells])
    return Microbatch(
        input_ids=ids,
        positions=np.concatenate([np.arange(n) for n in segments]).astype(np.int32),
        cu_seqlens=np.cumsum([0, *segments]).astype(np.int32),
        target_positions=np.concatenate([c.masked + s for c, s in zip(cells, starts, strict=False)]).astype(np.int32),
        targets=np.concatenate([c.tokens[c.masked] for c in cells]),
        cell_ids=np.array([c.number for c in cells]),
        tokens=used,
        longest=VOCABULARY.seq_length,
    )


def build_engine(config: MainConfig, layout: Layout) -> Engine:
    """The engine of a tiny run."""
    precision = "fp32" if config.trainer.precision == "auto" else config.trainer.precision
    return Engine(config, layout=layout, vocabulary=VOCABULARY, max_steps=config.trainer.steps, precision=precision)


def train(
    changes: dict[str, Any], steps: int, *, save: Path | None = None, load: Path | None = None, first: int = 0
) -> list[tuple[float, float]]:
    """Losses and gradient norms (-1: left out) of some steps; optionally from and to a folder of shards."""
    config = tiny_config(**changes)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        engine = build_engine(config, layout)
        if load is not None:
            engine.load(load)
        reports = []
        for step in range(first, first + steps):
            batch = drawn_step(step, replica=layout.replica, replicas=layout.replicas)
            report = engine.train_step(batch, step=step)
            reports.append((report.loss.mean, -1.0 if report.grad_norm is None else report.grad_norm))
        if save is not None:
            engine.save(save)
        return reports


def train_saving(changes: dict[str, Any], steps: int, save: Path, first: int = 0) -> list[tuple[float, float]]:
    """`train` with a save, positional for `run_ranks`."""
    return train(changes, steps, save=save, first=first)


def save_apart(changes: dict[str, Any], folder: Path) -> str:
    """What a save says whose ranks write into folders of their own."""
    config = tiny_config(**changes)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        own = folder / str(world.rank)
        own.mkdir()
        try:
            build_engine(config, layout).save(own)
        except CheckpointError as error:
            return error.what
        return "saved"


def train_loading(changes: dict[str, Any], steps: int, load: Path, first: int) -> list[tuple[float, float]]:
    """`train` from a save, positional for `run_ranks`."""
    return train(changes, steps, load=load, first=first)


def settings_after_loading(changes: dict[str, Any], load: Path) -> list[dict[str, Any]]:
    """Settings of the optimizer's groups after shards were read into a config with changes."""
    config = tiny_config(**changes)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        engine = build_engine(config, layout)
        engine.load(load)
        return [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]


def replicated_parameters(changes: dict[str, Any], steps: int) -> dict[str, bytes]:
    """Parameters that every tensor rank holds whole, after some steps; and whether random states are the ranks' own."""
    config = tiny_config(**changes)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        engine = build_engine(config, layout)
        for step in range(steps):
            engine.train_step(drawn_step(step, replica=layout.replica, replicas=layout.replicas), step=step)
        return {
            name: parameter.detach().numpy().tobytes()
            for name, parameter in engine.encoder.named_parameters()
            if not getattr(parameter, "tensor_model_parallel", False)
        }


def tracker_when_built(changes: dict[str, Any]) -> bool:
    """Whether the ranks have random states of their own when the model is built, as Transformer Engine asks."""
    import scmf.train.engine as module
    from scmf.model.megatron import get_cuda_rng_tracker

    config, seen = tiny_config(**changes), []
    wrap = module.wrap_stages

    def watch(*args: Any, **options: Any) -> Any:
        seen.append(get_cuda_rng_tracker().is_initialized())
        return wrap(*args, **options)

    module.wrap_stages = watch  # called right after the model is built
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        build_engine(config, layout)
    return seen == [True]


def train_fp16(steps: int) -> tuple[list[StepReport], list[float]]:
    """Reports of steps in fp16, and the loss scale before the first and after each."""
    config = tiny_config(trainer__precision="fp16", trainer__optimizer__lr=1e-2)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        engine = build_engine(config, layout)
        scales, reports = [loss_scale(engine)], []
        for step in range(steps):
            reports.append(engine.train_step(drawn_step(step, replica=0, replicas=1), step=step))
            scales.append(loss_scale(engine))
        return reports, scales


def loss_scale(engine: Engine) -> float:
    """Present loss scale of fp16."""
    return float(engine.optimizer.get_loss_scale())


def train_uneven(steps: int) -> list[float]:
    """Losses under FSDP where the first replica has three microbatches and the second one."""
    config = tiny_config(trainer__parallel__fsdp=True)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        engine = build_engine(config, layout)
        losses = []
        for step in range(steps):
            cells = [_cell(8 * step + i) for i in range(8)]
            packs = [pack(cells[:2]), pack(cells[2:4]), pack(cells[4:6]), pack(cells[6:])]
            own = {1: packs, 2: packs[:3] if layout.replica == 0 else packs[3:]}[layout.replicas]
            batch = StepBatch(microbatches=tuple(own), cells=8, cell_ids=np.arange(8))
            losses.append(engine.train_step(batch, step=step).loss.mean)
        nothing = StepBatch(microbatches=(), cells=8, cell_ids=np.arange(8))
        losses.append(engine.evaluate([batch if layout.replica == 0 else nothing]).mean if layout.replicas > 1 else 0.0)
        return losses[:steps]


def save_twice(changes: dict[str, Any], at_once: Path, later: Path) -> None:
    """The state after two steps, written at once, and from its copy after a third step has changed everything."""
    config = tiny_config(**changes)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        engine = build_engine(config, layout)
        for step in range(2):
            engine.train_step(drawn_step(step, replica=layout.replica, replicas=layout.replicas), step=step)
        engine.save(at_once)
        write = engine.stage()
        engine.train_step(drawn_step(2, replica=layout.replica, replicas=layout.replicas), step=2)
        write(later, None)


def train_in_sevenths(changes: dict[str, Any], steps: int) -> list[float]:
    """Losses where the one replica has seven microbatches: six cells alone and two together."""
    config = tiny_config(**changes)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        engine = build_engine(config, layout)
        losses = []
        for step in range(steps):
            cells = [_cell(8 * step + i) for i in range(8)]
            packs = (*(pack([cell], 128) for cell in cells[:6]), pack(cells[6:], 128))
            batch = StepBatch(microbatches=packs, cells=8, cell_ids=np.arange(8))
            losses.append(engine.train_step(batch, step=step).loss.mean)
        return losses
