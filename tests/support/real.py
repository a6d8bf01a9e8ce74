"""Small runs on the cells that the repository ships, for tests of layouts, resumes and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scmf.core.config_override import override
from scmf.core.config_read import Document
from scmf.core.config_write import to_yaml
from scmf.train.config import MainConfig, check_document
from scmf.train.layout import lay_out
from scmf.train.run import build_trainer
from scmf.train.world import join_world
from support.ranks import run_ranks

Steps = list[tuple[float, list[int]]]


def real_config(store: Path, result_dir: Path, *overrides: str) -> MainConfig:
    """A run of seconds: 4 layers x 64, cells cut at 96 tokens, 8 cells a step.

    Args:
        store: the converted demo counts.
        result_dir: run directory.
        overrides: `a.b=value` words.
    """
    values: dict[str, Any] = {
        "data": {
            "kind": "cells",
            "store": str(store),
            "tokenizer": {"kind": "rank", "vocabulary": "geneformer-v1", "seq_length": 96},
            "split": {"validation": 0.1},
            "global_batch_size": 8,
            "microbatch_tokens": 256,
        },
        "model": {"kind": "encoder", "layers": 4, "hidden": 64, "ffn": 128, "heads": 4},
        "trainer": {
            "max_steps": 30,
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "schedule": {"kind": "cosine", "warmup_steps": 5},
            "validate": {"every": 10, "batches": 2},
            "checkpoint": {"every": 10},
            "log": {"every": 1, "cell_ids": True},
            "result_dir": str(result_dir),
        },
    }
    return check_document(override(Document(values=values, source="real_config", origins={}), overrides))


def write_config(config: MainConfig, path: Path) -> Path:
    """Write a config where the command can read it."""
    path.write_text(to_yaml(config))
    return path


def train_steps(store: Path, steps: int, overrides: tuple[str, ...]) -> Steps:
    """Loss and cell ids of the first steps, on this rank of the layout that the overrides ask for."""
    config = real_config(store, Path("unused"), *overrides)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        trainer, _ = build_trainer(config, layout)
        result = []
        for step in range(steps):
            batch = trainer.stream.step(step * config.data.global_batch_size)
            report = trainer.engine.train_step(batch, step=step)
            result.append((report.loss.mean, batch.cell_ids.tolist()))
        return result


def steps_on_ranks(store: Path, ranks: int, steps: int, *overrides: str) -> Steps:
    """`train_steps` on several ranks; every rank has to report the same."""
    first, *others = run_ranks(train_steps, ranks, store, steps, overrides)
    if any(other != first for other in others):
        raise AssertionError("ranks report different losses or cells")
    return first
