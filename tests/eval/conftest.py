"""Trained tiny runs that the tests of `scmf.eval` share."""

from __future__ import annotations

import pytest

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
