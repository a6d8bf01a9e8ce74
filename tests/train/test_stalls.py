"""Validations that lower the rate or end the run, counted over resumes."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError
from scmf.train.stalls import Stall, Stalls, refuse_without_validation
from support.command import lines, succeed
from support.real import real_config, write_config
from support.tiny import tiny_config

WATCHING = {
    "trainer__early_stop": {"patience": 3, "min_delta": 0.1},
    "trainer__schedule": {"kind": "plateau", "patience": 2, "cooldown": 1},
}
TRAINER = tiny_config(**WATCHING).trainer


def after(losses: list[float], trainer=TRAINER, begin: Stalls | None = None) -> Stalls:
    """The count after validations."""
    stalls = begin or Stalls()
    for loss in losses:
        stalls = stalls.after_validation({"val/loss": loss}, trainer)
    return stalls


def test_only_a_loss_that_falls_by_more_than_min_delta_is_progress():
    assert after([5.0, 4.95, 4.91]).stop == Stall(5.0, 2)
    assert after([5.0, 4.95, 4.85]).stop == Stall(4.85, 0)
    assert after([5.0, math.nan, math.inf]).stop == Stall(5.0, 2)
    assert after([math.nan]).stop == Stall(None, 1)


def test_a_run_ends_after_so_many_validations_without_progress_and_not_before():
    assert [after([5.0] * n).ends(TRAINER.early_stop) for n in range(1, 6)] == [False, False, False, True, True]
    assert not after([5.0] * 9, tiny_config().trainer).ends(None)


def test_a_plateau_lowers_the_rate_and_then_leaves_out_its_cooldown():
    reductions = [after([5.0] * n).reductions for n in range(1, 9)]
    assert reductions == [0, 0, 1, 1, 1, 2, 2, 2]
    assert after([5.0, 4.9, 4.8, 4.7, 4.6]).reductions == 0


@settings(max_examples=50, deadline=None)
@given(losses=st.lists(st.floats(0.0, 9.0) | st.just(math.nan), max_size=20), cut=st.integers(0, 20))
def test_a_run_that_is_cut_and_resumed_counts_as_one_that_is_not(losses, cut):
    record = json.loads(json.dumps(dataclasses.asdict(after(losses[:cut]))))
    assert after(losses[cut:], begin=Stalls.of(record)) == after(losses)


@pytest.mark.parametrize("key", WATCHING)
def test_without_held_out_cells_there_is_nothing_to_look_at(key):
    trainer = tiny_config(**{key: WATCHING[key]}).trainer
    with pytest.raises(ConfigError, match="no cell is held out"):
        refuse_without_validation(trainer, 0)
    refuse_without_validation(trainer, 1)
    refuse_without_validation(tiny_config().trainer, 0)


def test_a_run_stops_early_where_it_would_have_without_a_resume_with_other_ranks(demo_store, tmp_path):
    words = [
        "trainer.max_steps=4", "trainer.validate.every=2", "trainer.checkpoint.every=4", "trainer.log.every=1",
        "trainer.ema={decay: 0.9}", "trainer.early_stop={patience: 2, min_delta: 20.0}",
        "trainer.schedule={kind: plateau, patience: 1, min_delta: 20.0, min_ratio: 0.0}",
    ]  # fmt: skip
    directory = tmp_path / "run"
    config = write_config(real_config(demo_store.path, directory, *words), tmp_path / "cfg.yaml")
    succeed("scmf-train", "--config", config, "trainer.devices=2")
    resume = ["--config", config, "--resume", "auto", "trainer.max_steps=20"]
    said = succeed("scmf-train", *resume)
    found = {line["step"]: line for line in lines(directory / "metrics.jsonl")}
    # The first validation is the lowest; no later one is lower by 20 nats.
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert [found[step]["early_stop/validations"] for step in (2, 4, 6)] == [0, 1, 2]
    peak = found[1]["train/lr"]
    assert [found[step]["train/lr"] / peak for step in range(1, 7)] == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
    assert [found[step]["train/lr_reductions"] for step in (2, 4, 6)] == [0, 1, 2]
    assert all(0 < found[step]["val/ema_loss"] != found[step]["val/loss"] for step in (2, 4, 6))
    assert "stopping early at step 6: val/loss has not fallen below" in said
    assert "done: 6 steps" in said
    starts = json.loads((directory / "run.json").read_text())["starts"]
    assert [start["ended"]["reason"] for start in starts] == ["max_steps", "early_stop"]
    assert starts[1]["ended"] == {"reason": "early_stop", "step": 6, "best": found[2]["val/loss"]}
    record = json.loads((directory / "checkpoints" / "last" / "checkpoint.json").read_text())["progress"]
    assert (record["step"], record["val_loss"]) == (6, found[6]["val/loss"])
    assert "nothing to do: trainer.early_stop has ended the run at step 6" in succeed("scmf-train", *resume)
