"""A run cut anywhere and resumed equals the run never cut: the commands, real cells, kill -9."""

from __future__ import annotations

import random
import shutil

import pytest

from scmf.core.errors import ConfigError
from scmf.data.ledger import LEDGER, Ledger
from scmf.data.seen import split_seen
from scmf.train.cli_train import train_command
from support.command import curve, kill_when, last_step, lines, run, succeed, three_lines
from support.ranks import run_ranks
from support.real import real_config, write_config
from support.tiny import settings_after_loading, train_saving

DROPOUT = ["model.hidden_dropout=0.1", "model.attention_dropout=0.1"]
SAVING = ["trainer.max_steps=24", "trainer.checkpoint.every=4", "trainer.validate.every=8"]
TENSOR = ["trainer.devices=2", "trainer.parallel.tensor=2"]
PIPELINE = ["trainer.devices=2", "trainer.parallel.pipeline=2"]


@pytest.fixture(scope="module")
def config(demo_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    return write_config(real_config(demo_store.path, folder / "unused", *DROPOUT, *SAVING), folder / "cfg.yaml")


@pytest.fixture(scope="module")
def uncut(config, tmp_path_factory):
    """The run that nothing happens to."""
    directory = tmp_path_factory.mktemp("uncut") / "run"
    succeed("scmf-train", "--config", config, f"trainer.result_dir={directory}")
    return directory


def arguments(config, directory, *more):
    return ["--config", config, "--resume", "auto", f"trainer.result_dir={directory}", *more]


def test_a_run_killed_at_random_steps_and_inside_a_save_is_bit_equal_to_the_run_never_cut(config, uncut, tmp_path):
    directory = tmp_path / "run"
    saves = directory / "checkpoints"
    for step in sorted(random.Random(7).sample(range(1, 20), 2)):
        assert kill_when(arguments(config, directory), lambda step=step: last_step(directory) >= step)
    assert kill_when(arguments(config, directory), lambda: any(saves.glob(".writing-*")))
    succeed("scmf-train", *arguments(config, directory))
    assert curve(directory) == curve(uncut)
    assert lines(directory / "cells.jsonl") == lines(uncut / "cells.jsonl")
    assert not list(saves.glob(".writing-*"))
    assert (saves / "last" / LEDGER).read_bytes() == (uncut / "checkpoints" / "last" / LEDGER).read_bytes()


def test_a_checkpoint_tells_the_cells_that_it_was_trained_on_from_all_others(uncut, demo_store):
    saves = sorted((uncut / "checkpoints").glob("step_*"))
    for folder in saves:
        steps = int(folder.name.removeprefix("step_"))
        drawn = {cell for line in lines(uncut / "cells.jsonl")[:steps] for cell in line["cell_ids"]}
        split = split_seen(demo_store, Ledger.load(folder))
        assert set(split.seen.tolist()) == drawn
        assert Ledger.load(folder).facts.store == demo_store.fingerprint
    assert len(drawn) == 189  # and of the 21 validation cells none


def test_every_cell_of_an_epoch_is_drawn_once_and_validation_cells_never(uncut, demo_store):
    drawn = [cell for line in lines(uncut / "cells.jsonl") for cell in line["cell_ids"]]
    epoch = drawn[:189]
    assert len(set(epoch)) == 189
    assert len(set(drawn)) == 189  # 24 steps of 8 cells reach into the second epoch


@pytest.mark.parametrize(
    ("before", "after"),
    [pytest.param(TENSOR, PIPELINE, id="TP2 -> PP2"), pytest.param(["trainer.devices=2"], [], id="DP2 -> 1")],
)
def test_a_run_resumed_in_another_layout_sees_the_same_cells_and_losses(before, after, demo_store, tmp_path):
    config = write_config(real_config(demo_store.path, tmp_path / "unused", *SAVING), tmp_path / "cfg.yaml")
    reference, directory = tmp_path / "reference", tmp_path / "run"
    succeed("scmf-train", "--config", config, f"trainer.result_dir={reference}")
    assert kill_when(arguments(config, directory, *before), lambda: last_step(directory) >= 10)
    succeed("scmf-train", *arguments(config, directory, *after))
    for here, there in zip(curve(directory), curve(reference), strict=True):
        assert here["step"] == there["step"]
        assert abs(here["train/loss"] - there["train/loss"]) < 1e-4
    assert lines(directory / "cells.jsonl") == lines(reference / "cells.jsonl")


@pytest.fixture
def copy(uncut, tmp_path):
    """A finished run that a test may spoil."""
    return shutil.copytree(uncut, tmp_path / "run", symlinks=True)


def test_a_finished_run_is_not_written_over(config, copy):
    what, where, fix = three_lines(run("scmf-train", "--config", config, f"trainer.result_dir={copy}"))
    assert what == "this folder already holds a run"
    assert where == str(copy)
    assert "--resume auto" in fix


def test_a_run_in_the_way_is_told_before_megatron_is_imported(config, uncut, monkeypatch):
    monkeypatch.setattr("scmf.train.cli_train._run_rank", lambda *_: pytest.fail("Megatron is imported for nothing"))
    with pytest.raises(ConfigError, match="already holds a run"):
        train_command(["--config", str(config), f"trainer.result_dir={uncut}"])


def test_a_resume_from_an_unset_variable_is_refused_before_anything_is_touched(config, uncut):
    with pytest.raises(ConfigError, match="--resume is an empty word"):
        train_command(["--config", str(config), "--resume", "", f"trainer.result_dir={uncut}"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            "model.hidden=32", "model hidden is 32 in this configuration and 64 in the checkpoint", id="model"
        ),
        pytest.param("model.layernorm_epsilon=1e-3", "model layernorm_epsilon is 0.001", id="any key of the model"),
        pytest.param("trainer.precision=bf16", "model precision is bf16", id="precision"),
        pytest.param("data.split.validation=0.2", "data split is", id="split"),
        pytest.param("trainer.seed=1", "trainer.seed is 1 in this configuration and 42", id="seed"),
        pytest.param("data.tokenizer.vocabulary=geneformer-v2", "data vocabulary is", id="vocabulary"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(config, copy, change, says):
    before = (copy / "config.yaml").read_text(), (copy / "run.json").read_text()
    what, _, fix = three_lines(run("scmf-train", *arguments(config, copy, change)))
    assert says in what
    assert "init_from" in fix
    assert before == ((copy / "config.yaml").read_text(), (copy / "run.json").read_text())


def spoil(checkpoint):
    """One bit of a shard is turned."""
    shard = next(checkpoint.glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    return shard


def test_resume_auto_passes_over_a_damaged_checkpoint_says_so_and_a_named_one_is_refused(config, copy, uncut):
    newest = max((copy / "checkpoints").glob("step_*"))
    shard = spoil(newest)
    what, where, _ = three_lines(
        run("scmf-train", "--config", config, "--resume", newest, f"trainer.result_dir={copy}")
    )
    assert what == f"{shard.name} does not have the bytes that were written"
    assert where == str(newest)
    out = succeed("scmf-train", *arguments(config, copy))
    assert f"WARNING {newest} is damaged ({shard.name} does not have the bytes" in out
    assert "resumed at step 20" in out
    assert f"set aside as abandoned_{newest.name}" in out
    assert curve(copy) == curve(uncut)


def test_a_run_with_nothing_but_damaged_checkpoints_is_refused_and_stays_as_it_is(config, copy):
    for path in (copy / "checkpoints").glob("step_*"):
        spoil(path)
    before = sorted(path.name for path in (copy / "checkpoints").iterdir())
    what, _, _ = three_lines(run("scmf-train", *arguments(config, copy)))
    assert "does not have the bytes that were written" in what
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == before


def test_an_older_checkpoint_can_be_named_and_the_later_ones_are_set_aside(config, copy, uncut):
    older = min((copy / "checkpoints").glob("step_*"))
    succeed("scmf-train", "--config", config, "--resume", older, f"trainer.result_dir={copy}")
    assert curve(copy) == curve(uncut)
    assert list((copy / "checkpoints").glob("abandoned_*"))
    first = int(older.name.removeprefix("step_"))
    assert [line["step"] for line in lines(copy / "abandoned_1.metrics.jsonl")] == [
        line["step"] for line in curve(uncut) if line["step"] > first
    ]


def test_weights_of_one_run_start_another(config, uncut, tmp_path):
    directory = tmp_path / "next"
    start = [f"model.init_from={uncut}", "trainer.max_steps=6", f"trainer.result_dir={directory}", "trainer.seed=5"]
    out = succeed("scmf-train", "--config", config, *start)
    assert "weights from" in out
    assert curve(directory)[0]["train/loss"] < curve(uncut)[0]["train/loss"] - 0.1
    assert curve(directory)[0]["step"] == 1


def test_resume_before_the_first_checkpoint_begins_again(config, uncut, tmp_path):
    directory = tmp_path / "run"
    assert kill_when(arguments(config, directory), lambda: 1 <= last_step(directory) < 4)
    begun = curve(directory)
    out = succeed("scmf-train", *arguments(config, directory))
    assert "nothing to resume yet" in out
    assert curve(directory) == curve(uncut)
    set_aside = [line["step"] for line in lines(directory / "abandoned_1.metrics.jsonl")]
    assert set_aside[: len(begun)] == [line["step"] for line in begun]


def test_a_resume_before_the_first_checkpoint_starts_from_the_weights_asked_for(config, uncut, tmp_path):
    start = [f"model.init_from={uncut}", "trainer.max_steps=2", "trainer.schedule.warmup_steps=1"]
    out = succeed("scmf-train", *arguments(config, tmp_path / "a", *start))
    assert "weights from" in out
    succeed("scmf-train", "--config", config, *start, f"trainer.result_dir={tmp_path / 'b'}")
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


def test_damaged_weights_do_not_start_a_run(config, copy, tmp_path):
    newest = max((copy / "checkpoints").glob("step_*"))
    shard = next(newest.glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    start = [f"model.init_from={newest}", f"trainer.result_dir={tmp_path / 'next'}"]
    what, _, _ = three_lines(run("scmf-train", "--config", config, *start))
    assert what == f"{shard.name} does not have the bytes that were written"
    assert not (tmp_path / "next" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param("data.tokenizer.vocabulary=geneformer-v2", "the vocabulary is", id="vocabulary"),
        pytest.param("model.hidden=32", "model hidden is 32", id="size"),
        pytest.param("data.tokenizer.seq_length=64", "model seq_length is 64", id="positions"),
    ],
)
def test_weights_of_another_vocabulary_or_size_do_not_start_a_run(config, uncut, tmp_path, change, says):
    start = [f"model.init_from={uncut}", f"trainer.result_dir={tmp_path / 'next'}", change]
    what, _, fix = three_lines(run("scmf-train", "--config", config, *start))
    assert says in what
    assert "config.yaml" in fix


def test_the_settings_of_the_optimizer_are_those_of_the_config_not_of_the_checkpoint(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    run_ranks(train_saving, 1, {}, 2, folder)
    changes = {"trainer__optimizer__weight_decay": 0.3, "trainer__optimizer__beta2": 0.95}
    (groups,) = run_ranks(settings_after_loading, 1, changes, folder)
    assert {group["betas"] for group in groups} == {(0.9, 0.95)}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.3}


def test_the_checkpoint_of_another_run_does_not_go_on_in_a_folder_that_holds_one(config, uncut, copy):
    theirs = max((uncut / "checkpoints").glob("step_*"))
    what, _, _ = three_lines(run("scmf-train", "--config", config, "--resume", theirs, f"trainer.result_dir={copy}"))
    assert what == "this folder already holds a run"
    assert curve(copy) == curve(uncut)


def test_a_finished_run_has_nothing_to_do(config, copy, uncut):
    assert "nothing to do: the run is at step 24 of 24" in succeed("scmf-train", *arguments(config, copy))
    assert curve(copy) == curve(uncut)


def test_two_runs_in_one_folder_at_once_are_refused(config, tmp_path):
    directory = tmp_path / "run"
    said = []

    def beside():
        if last_step(directory) >= 2:
            said.append(three_lines(run("scmf-train", *arguments(config, directory))))
        return bool(said)

    assert kill_when(arguments(config, directory, "trainer.max_steps=2000"), beside)
    what, where, _ = said[0]
    assert what.startswith("another run is using this folder: process ")
    assert where == str(directory)


def test_epochs_under_another_batch_size_are_refused_rather_than_cut_short(config, tmp_path):
    directory = tmp_path / "run"
    epochs = ["trainer.max_steps=null", "trainer.max_epochs=1"]
    saved = directory / "checkpoints" / "last"
    assert kill_when(arguments(config, directory, *epochs), saved.exists)
    what, _, _ = three_lines(run("scmf-train", *arguments(config, directory, *epochs, "data.global_batch_size=16")))
    assert "data.global_batch_size with max_epochs is 16" in what


def test_a_folder_named_auto_is_a_path_like_any_other_for_init_from(config, tmp_path):
    start = ["model.init_from=auto", f"trainer.result_dir={tmp_path / 'next'}"]
    what, where, _ = three_lines(run("scmf-train", "--config", config, *start))
    assert what == "there is no such folder"
    assert where == "auto"
