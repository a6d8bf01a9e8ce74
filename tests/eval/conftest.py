"""Trained tiny runs that the tests of `scmf.eval` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from scmf.core.config_write import to_yaml
from scmf.train.recipe import RecipeArguments
from scmf.train.recipes import find_recipe
from support.command import succeed
from support.real import real_config, write_config


@pytest.fixture(scope="session")
def cell_run(demo_store, tmp_path_factory):
    """A run of twelve steps on real cells, validated on every held-out cell, with averaged weights. Read only."""
    folder = tmp_path_factory.mktemp("cell-run")
    wanted = [
        "trainer.max_steps=12",
        "trainer.checkpoint={every: 4, keep_last: 9}",
        "trainer.validate={every: 4, batches: 100}",
        "trainer.ema={decay: 0.9}",
        "data.split.test=0.1",
    ]
    config = write_config(real_config(demo_store.path, folder / "run", *wanted), folder / "cfg.yaml")
    succeed("scmf-train", "--config", config)
    return folder / "run"


@dataclass(frozen=True)
class TextRun:
    """A trained character GPT and what it has read."""

    folder: Path
    text: str


SENTENCE = "the quick brown fox jumps over the lazy dog.\n"


@pytest.fixture(scope="session")
def text_run(tmp_path_factory):
    """`char-gpt-test`, trained on one sentence again and again until it knows it. Read only."""
    folder = tmp_path_factory.mktemp("text-run")
    (folder / "text.txt").write_text(SENTENCE * 150)
    succeed("scmf-store", "convert", "text.txt", "--dest", "store", cwd=folder)
    words = (
        f"data.tokenizer.characters={len(set(SENTENCE))}",
        "data.split={kind: contiguous, validation: 0.1, test: 0.1}",
        "trainer.max_steps=150",
        "trainer.validate={every: 150, batches: 1000}",
        "trainer.checkpoint.every=150",
    )
    arguments = RecipeArguments(store=str(folder / "store"), result_dir=str(folder / "run"), overrides=words)
    (folder / "cfg.yaml").write_text(to_yaml(find_recipe("char-gpt-test").config(arguments)))
    succeed("scmf-train", "--config", folder / "cfg.yaml")
    return TextRun(folder / "run", SENTENCE * 150)
