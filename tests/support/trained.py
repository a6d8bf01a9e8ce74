"""A whole run of `scmf-train` on this rank of several, for `run_ranks`."""

from __future__ import annotations

from pathlib import Path

from scmf.train.config import load_config
from scmf.train.layout import lay_out
from scmf.train.run import run
from scmf.train.world import join_world


def train_run(config: Path) -> int:
    """Train what a config describes; returns the exit code."""
    checked = load_config(config)
    with join_world() as world, lay_out(world, checked.trainer.parallel) as layout:
        return run(checked, layout, resume=None)
