"""Small runs of a character GPT on the text that the repository ships, for recorded losses and for layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scmf.train.config import MainConfig
from scmf.train.layout import lay_out
from scmf.train.recipe import RecipeArguments
from scmf.train.recipes import find_recipe
from scmf.train.run import build_trainer, run
from scmf.train.world import join_world
from support.ranks import run_ranks

OPENING = Path(__file__).parents[2] / "data" / "tinyshakespeare_opening.txt"
CHARACTERS = 58
"""Different ones in it."""


def char_config(store: Path, result_dir: Path, *overrides: str) -> MainConfig:
    """`char-gpt-test` on a store of text.

    Args:
        store: of the shipped text, unless the overrides give another number of characters.
        result_dir: run directory.
        overrides: `a.b=value` words.
    """
    words = (f"data.tokenizer.characters={CHARACTERS}", *overrides)
    arguments = RecipeArguments(store=str(store), result_dir=str(result_dir), overrides=words)
    return find_recipe("char-gpt-test").config(arguments)


def curve(store: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Training losses of every step, and the validation loss at the end, on this rank of a layout."""
    config = char_config(store, Path("unused"), *overrides)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        trainer, _ = build_trainer(config, layout)
        losses = []
        for step in range(config.trainer.steps):
            batch = trainer.stream.step(step * config.data.global_batch_size)
            losses.append(trainer.engine.train_step(batch, step=step).loss.mean)
        held_out = (trainer.stream.validation(i) for i in range(config.trainer.validation.batches))
        validation = trainer.engine.evaluate(batch for batch in held_out if batch is not None)
        return {"training": losses, "validation": validation.mean, "targets": validation.targets}


def curve_on_ranks(store: Path, ranks: int, *overrides: str) -> dict[str, Any]:
    """`curve` on several ranks; every rank has to report the same."""
    first, *others = run_ranks(curve, ranks, store, overrides)
    if any(other != first for other in others):
        raise AssertionError("ranks report different losses")
    return first


def fit(store: Path, result_dir: Path, overrides: tuple[str, ...]) -> list[dict[str, Any]]:
    """A whole run, as `scmf-train` does it in one process; the lines of its metrics."""
    config = char_config(store, result_dir, *overrides)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        code = run(config, layout, resume=None)
    if code != 0:
        raise AssertionError(f"the run ended with {code}")
    return [json.loads(line) for line in (result_dir / "metrics.jsonl").read_text().splitlines()]
