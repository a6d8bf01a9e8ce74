"""Steps of every kind of optimizer in one layout, in one start of the ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scmf.train.config import ParallelConfig
from scmf.train.engine import Engine
from scmf.train.layout import Layout, lay_out
from scmf.train.world import join_world
from support.tiny import build_engine, drawn_step, tiny_config

KINDS: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 3e-3},
    "adam": {"lr": 3e-3, "weight_decay": 0.01},
    "adamax": {"lr": 3e-3, "weight_decay": 0.01},
    "sgd": {"lr": 0.1, "weight_decay": 0.01, "nesterov": True},
    "rmsprop": {"lr": 3e-4, "momentum": 0.5, "weight_decay": 0.01},
    "muon": {"lr": 3e-3},
}
EMA = {"trainer__ema": {"decay": 0.9}}


def kind_of(name: str) -> dict[str, Any]:
    """Changes of the tiny config."""
    return {"trainer__optimizer": {"kind": name, **KINDS[name]}, **EMA}


def some_steps(engine: Engine, layout: Layout, first: int, last: int) -> list[float]:
    """Losses of steps [first, last)."""
    losses = []
    for step in range(first, last):
        batch = drawn_step(step, replica=layout.replica, replicas=layout.replicas)
        losses.append(engine.train_step(batch, step=step).loss.mean)
    return losses


def cut_and_uncut(parallel: dict[str, Any], names: list[str], folder: Path, precision: str = "fp32") -> dict[str, Any]:
    """Of each kind: losses of six steps, the averaged weights' loss after them; a save after three of them."""
    changes = {f"trainer__parallel__{key}": value for key, value in parallel.items()}
    with join_world() as world, lay_out(world, ParallelConfig(**parallel)) as layout:
        found = {}
        for name in names:
            engine = build_engine(tiny_config(**changes, **kind_of(name), trainer__precision=precision), layout)
            losses = some_steps(engine, layout, 0, 3)
            if layout.world.is_first:
                (folder / name).mkdir(parents=True)
            torch.distributed.barrier()
            engine.save(folder / name)
            losses += some_steps(engine, layout, 3, 6)
            found[name] = (losses, averaged_loss(engine, layout))
        return found


def resumed(parallel: dict[str, Any], names: list[str], folder: Path, precision: str = "fp32") -> dict[str, Any]:
    """The last three of those steps, from the save."""
    changes = {f"trainer__parallel__{key}": value for key, value in parallel.items()}
    with join_world() as world, lay_out(world, ParallelConfig(**parallel)) as layout:
        found = {}
        for name in names:
            engine = build_engine(tiny_config(**changes, **kind_of(name), trainer__precision=precision), layout)
            engine.load(folder / name)
            found[name] = (some_steps(engine, layout, 3, 6), averaged_loss(engine, layout))
        return found


def averaged_loss(engine: Engine, layout: Layout) -> float:
    """Loss of the averaged weights; the weights have to be what they were, bit by bit."""
    held_out = [drawn_step(99, replica=layout.replica, replicas=layout.replicas)]
    before = engine.evaluate(held_out)
    averaged = engine.evaluate_average(held_out)
    if engine.evaluate(held_out) != before or averaged == before:
        raise AssertionError(f"loss {before}, with averaged weights {averaged}, again {engine.evaluate(held_out)}")
    return averaged.mean


def average_as_weights(folder: Path, parallel: dict[str, Any]) -> float:
    """Held-out loss of a model that begins with the averaged weights of a checkpoint."""
    changes = {f"trainer__parallel__{key}": value for key, value in parallel.items()}
    with join_world() as world, lay_out(world, ParallelConfig(**parallel)) as layout:
        engine = build_engine(tiny_config(**changes), layout)
        engine.load_weights(folder, average=True)
        return engine.evaluate([drawn_step(99, replica=layout.replica, replicas=layout.replicas)]).mean
