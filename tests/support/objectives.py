"""Runs of several objectives on real cells: their numbers step by step, on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scmf.core.errors import ScmfError
from scmf.train.layout import lay_out
from scmf.train.run import build_trainer, run
from scmf.train.trainer import Trainer
from scmf.train.world import join_world
from support.real import real_config

Numbers = dict[str, float]

LINE = "{kind: classify, column: line}"
DEPTH = "{kind: regress, column: n_counts, pool: first}"
TASKS = f"{{mlm: {{kind: mlm}}, line: {LINE}, depth: {DEPTH}}}"
THREE = f"model.task={{kind: several, tasks: {TASKS}, weights: {{line: 0.5, depth: 0.2}}}}"


def train_numbers(
    store: Path, steps: int, overrides: tuple[str, ...], load: Path | None = None, save: Path | None = None
) -> tuple[list[Numbers], int, int]:
    """What every step and a validation say; parameters of the whole model as counted, and by formula.

    Args:
        store: of the demo cells.
        steps: of this run; after a load they go on where it ended.
        overrides: `a.b=value` words.
        load: folder of shards to begin with, saved after as many steps.
        save: folder to write shards into after the last step; as many steps and a validation follow.
    """
    config = real_config(store, Path("unused"), *overrides)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        trainer, _ = build_trainer(config, layout)
        if load is not None:
            trainer.engine.load(load)
        numbers = _some_steps(trainer, steps, first=steps if load else 0)
        if save is not None:
            trainer.engine.save(save)
            numbers += _some_steps(trainer, steps, first=steps)
        by_formula = trainer.config.model.n_parameters(len(trainer.stream.vocabulary), 96)
        return numbers, trainer.engine.n_parameters, by_formula


def _some_steps(trainer: Trainer, steps: int, *, first: int) -> list[Numbers]:
    size, numbers = trainer.config.data.global_batch_size, []
    for step in range(first, first + steps):
        report = trainer.engine.train_step(trainer.stream.step(step * size), step=step)
        numbers.append(report.loss.numbers("train") | {"norm": report.grad_norm or -1.0})
    held_out = trainer.stream.validation(0)
    return [*numbers, trainer.engine.evaluate([held_out] if held_out else []).numbers("val")]


def weights_after_loading(store: Path, folder: Path, overrides: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """Every parameter of a model before and after it has read a folder of shards as weights alone."""
    config = real_config(store, Path("unused"), *overrides)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        engine = build_trainer(config, layout)[0].engine
        found = []
        for load in (False, True):
            if load:
                engine.load_weights(folder)
            found.append({name: p.detach().numpy().tobytes() for name, p in engine.encoder.named_parameters()})
        return tuple(found)


def resume_with(store: Path, directory: Path, words: tuple[str, ...], changed: list[tuple[str, ...]]) -> list[str]:
    """A run of two steps, then what a resume of it says for each set of changed words; its end is no error: ''."""
    said = []
    for number, more in enumerate([(), *changed]):
        config = real_config(store, directory, "trainer.max_steps=2", "trainer.schedule.warmup_steps=1", *words, *more)
        try:
            with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
                run(config, layout, resume="auto" if number else None)
            said.append("")
        except ScmfError as error:
            said.append(error.what)
    return said
