"""Trained runs loaded for use: which checkpoint, what it says, and weights that are those of the training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from scmf.core.errors import CheckpointError, ConfigError
from scmf.eval.saved import find_saved
from scmf.train.checkpoint import RECORD, CheckpointFolder, _describe, read_progress
from scmf.train.config import CheckpointConfig
from support.command import lines, succeed
from support.ranks import run_ranks
from support.real import real_config, write_config
from support.trained import train_run


@pytest.mark.parametrize(
    ("place", "weights", "step"),
    [
        pytest.param(".", "latest", 12, id="run directory"),
        pytest.param(".", "8", 8, id="step by number"),
        pytest.param(".", "ema", 12, id="average"),
        pytest.param("checkpoints", "4", 4, id="checkpoints folder"),
        pytest.param("checkpoints/step_00000004", "latest", 4, id="one checkpoint"),
        pytest.param("checkpoints/last", "latest", 12, id="link"),
    ],
)
def test_a_path_and_a_choice_name_one_checkpoint(cell_run, place, weights, step):
    saved = find_saved(cell_run / place, weights=weights)
    assert saved.folder == (cell_run / "checkpoints" / f"step_{step:08d}").resolve()
    assert (saved.progress.step, saved.average) == (step, weights == "ema")
    assert saved.config.model.kind == "encoder"


def test_the_best_is_the_one_of_the_lowest_validation_loss(cell_run):
    losses = {step: find_saved(cell_run, weights=str(step)).progress.val_loss for step in (4, 8, 12)}
    assert find_saved(cell_run, weights="best").progress.step == min(losses, key=losses.get)
    assert (cell_run / "checkpoints" / "best").resolve() == find_saved(cell_run, weights="best").folder


def test_a_loss_of_another_metric_does_not_make_the_best(copied):
    checkpoints = CheckpointFolder(copied / "checkpoints", CheckpointConfig())
    # The oldest has by far the lowest loss, of other cells.
    for step, metric, loss in ((4, "val/far/loss", 0.1), (8, "val/loss", 3.0), (12, "val/loss", 4.0)):
        folder = checkpoints.named(step)
        checkpoints.amend(folder, replace(read_progress(folder), val_metric=metric, val_loss=loss))
    assert find_saved(copied, weights="best").progress.step == 8


@pytest.fixture
def copied(cell_run, tmp_path):
    """The run where a test may break it."""
    return shutil.copytree(cell_run, tmp_path / "run", symlinks=True)


@pytest.mark.parametrize(
    ("place", "weights", "what", "fix"),
    [
        pytest.param("chekpoints", "latest", "no such run", "checkpoints", id="misspelt path"),
        pytest.param("config.yaml", "latest", "no complete checkpoint", "run directory", id="a file"),
        pytest.param(".", "7", "no checkpoint of step 7", "4, 8, 12", id="step that is not kept"),
        pytest.param("checkpoints/last", "best", "chooses among", "--weights best", id="best of one"),
        pytest.param(".", "newest", "neither latest, best, ema", "--weights latest", id="word"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(cell_run, place, weights, what, fix):
    with pytest.raises((CheckpointError, ConfigError)) as error:
        find_saved(cell_run / place, weights=weights)
    assert what in error.value.what
    assert fix in error.value.fix


def test_a_flipped_byte_is_found_and_the_other_checkpoints_are_named(copied):
    [shard] = (copied / "checkpoints" / "step_00000012").glob("*.distcp")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not have the bytes") as error:
        find_saved(copied)
    assert "4, 8" in error.value.fix
    assert find_saved(copied, weights="8").progress.step == 8


def test_a_config_that_names_code_is_read_only_where_that_is_asked_for(copied):
    folder = copied / "checkpoints" / "step_00000012"
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values["trainer"]["schedule"] = {"kind": "support.own_kinds.SawtoothConfig"}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    record = json.loads((folder / RECORD).read_text())
    record["files"]["config.yaml"] = _describe(folder / "config.yaml")
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"trainer\.schedule\.kind: support\.own_kinds\.SawtoothConfig") as error:
        find_saved(copied)
    assert "--trust-code" in error.value.fix
    assert type(find_saved(copied, trust_code=True).config.trainer.schedule).__name__ == "SawtoothConfig"


def test_only_the_data_of_a_trained_model_can_be_changed(cell_run):
    assert find_saved(cell_run, changes=("data.workers=0",)).config.data.workers == 0
    for change in ("model.layers=2", "data.tokenizer.seq_length=512"):
        with pytest.raises(ConfigError, match=f"{change} would change"):
            find_saved(cell_run, changes=(change,))


def test_a_model_trained_on_two_tensor_ranks_is_the_same_model_in_one_process_its_average_too(demo_store, tmp_path):
    wanted = [
        "trainer.devices=2",
        "trainer.parallel.tensor=2",
        "trainer.max_steps=2",
        "trainer.schedule.warmup_steps=1",
        "trainer.checkpoint.every=2",
        "trainer.validate={every: 2, batches: 100}",
        "trainer.ema={decay: 0.5}",
    ]
    config = real_config(demo_store.path, tmp_path / "run", *wanted)
    assert run_ranks(train_run, 2, write_config(config, tmp_path / "cfg.yaml")) == [0, 0]
    measured = lines(tmp_path / "run" / "metrics.jsonl")[-1]
    for weights, key in (("latest", "val/loss"), ("ema", "val/ema_loss")):
        found = succeed("scmf-eval", "perplexity", "--run", tmp_path / "run", "--weights", weights, "--json")
        assert json.loads(found)["nats"] == pytest.approx(measured[key], abs=1e-5)
