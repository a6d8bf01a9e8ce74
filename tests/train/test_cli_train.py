"""scmf-train as a user meets it: runs, dry runs, own classes, and three-line errors that leave nothing half-written."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from contextlib import contextmanager

import pytest
import yaml

from scmf.core.errors import ConfigError, MachineError, StoreError
from scmf.train import cli_train
from scmf.train.cli_train import train_command
from scmf.train.machine import devices_to_use
from support.command import command, curve, environment, last_step, lines, run, succeed, three_lines
from support.real import real_config, write_config

SHORT = [
    "trainer.max_steps=4",
    "trainer.checkpoint.every=2",
    "trainer.validate.every=2",
    "trainer.schedule.warmup_steps=1",
]


@pytest.fixture
def config(demo_store, tmp_path):
    return write_config(real_config(demo_store.path, tmp_path / "run", *SHORT), tmp_path / "cfg.yaml")


@pytest.fixture
def store(demo_store, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(demo_store.path, tmp_path / "store")


def test_a_run_leaves_a_directory_that_is_sufficient_on_its_own(config, tmp_path):
    out = succeed("scmf-train", "--config", config, "trainer.log.tensorboard=true", cwd=tmp_path)
    run_directory = tmp_path / "run"
    assert "step 4/4  loss" in out
    assert "val loss" in out
    assert {line["step"] for line in lines(run_directory / "metrics.jsonl")} == {1, 2, 3, 4}
    (start,) = json.loads((run_directory / "run.json").read_text())["starts"]
    assert start["resolved"]["precision"] == "fp32"
    assert start["resolved"]["kernels"] == "local"
    assert start["reading"]["read"].startswith("mmap (auto: ")
    assert start["reading"]["order"] == {"kind": "random"}
    assert all(abs(quality["excess"]) < 1 for quality in start["reading"]["shuffle_quality"])
    assert start["parameters"] > 0
    assert start["data"]["store"]
    assert yaml.safe_load((run_directory / "config.yaml").read_text())["trainer"]["max_steps"] == 4
    assert list((run_directory / "tensorboard").glob("events.*"))
    assert "step 4/4" in (run_directory / "log.txt").read_text()
    newest = (run_directory / "checkpoints" / "last").resolve()
    assert newest.name == "step_00000004"
    assert {"config.yaml", "vocabulary.parquet", "checkpoint.json"} <= {p.name for p in newest.iterdir()}
    again = tmp_path / "again"
    succeed("scmf-train", "--config", newest / "config.yaml", f"trainer.result_dir={again}", cwd=tmp_path)
    assert curve(again) == curve(run_directory)


def test_epochs_become_steps(config, tmp_path):
    succeed("scmf-train", "--config", config, "trainer.max_steps=null", "trainer.max_epochs=0.1")
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]
    assert (resolved["max_steps"], resolved["max_epochs"]) == (3, None)  # 0.1 x 189 cells in steps of 8


def test_a_dry_run_says_what_a_run_would_cost_and_writes_nothing(config, tmp_path):
    out = succeed("scmf-train", "--config", config, "--dry-run")
    for word in ("parameters", "microbatches", "GB resident", "cells/s", "189 train, 21 validation", "FLOP a cell"):
        assert word in out
    assert re.search(r"parts  [\d.]+ GB by formula .*: libraries 0.69, ", out)
    assert not (tmp_path / "run").exists()


def test_a_class_of_the_users_own_is_found_by_its_dotted_path(config, tmp_path):
    (tmp_path / "my_lab.py").write_text(
        "from scmf.data.config import CellsConfig\n"
        "class FirstCells(CellsConfig):\n"
        '    """Only the first cells, over and over."""\n'
        "    first: int\n"
        '    """How many."""\n'
        "    def open(self, **place):\n"
        "        stream = super().open(**place)\n"
        "        draw = stream.draw\n"
        "        stream.draw = lambda seen: draw(seen % self.first)\n"
        "        return stream\n"
    )
    more = ["data.kind=my_lab.FirstCells", "data.first=8"]
    succeed("scmf-train", "--config", config, *more, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    cells = [line["cell_ids"] for line in lines(tmp_path / "run" / "cells.jsonl")]
    assert cells == [cells[0]] * 4
    by_flag = ["--data-config-cls", "my_lab.FirstCells", "data.first=8", f"trainer.result_dir={tmp_path / 'flag'}"]
    succeed("scmf-train", "--config", config, *by_flag, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert curve(tmp_path / "flag") == curve(tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        pytest.param([], "required: --config", "--help", id="no config"),
        pytest.param(["--config", "absent.yaml"], "no such configuration", "", id="missing file"),
        pytest.param(["--config", "CFG", "trainer.optimiser.lr=1"], "optimiser", "optimizer", id="misspelled key"),
        pytest.param(["--config", "CFG", "trainer.optimizer.lr=-1"], "lr", "", id="negative rate"),
        pytest.param(["--config", "CFG", "trainer.nodes=2"], "no launcher", "torchrun", id="two nodes alone"),
        pytest.param(["--config", "CFG", "--resumee"], "unrecognized", "--resume", id="unknown flag"),
    ],
)
def test_a_wrong_command_is_told_before_torch_is_imported(arguments, what, fix, config):
    words = [str(config) if word == "CFG" else word for word in arguments]
    with pytest.raises(ConfigError) as refused:
        train_command(words)
    assert what.lower() in refused.value.what.lower()
    assert fix in refused.value.fix


def test_data_given_as_a_config_is_told_apart_with_the_commands_that_lead_to_one(demo_store, demo_h5ad, tmp_path):
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "config.yaml").write_text("data: 1\n")
    for given, what, fix in (
        (demo_store.path, "this is a cell store", f"scmf-recipe --recipe 10m-pretrain --data-path {demo_store.path}"),
        (demo_h5ad, "this is a file of counts", f"scmf-store convert {demo_h5ad} --dest data/cells"),
        (tmp_path / "a run", "this is the folder of a run", f"--config '{tmp_path}/a run/config.yaml' --resume auto"),
    ):
        with pytest.raises(ConfigError, match=what) as refused:
            train_command(["--config", str(given)])
        assert fix in refused.value.fix


def test_a_start_that_is_refused_leaves_no_folder_and_no_lock(config, tmp_path):
    weights = f"model.init_from={tmp_path / 'no'}"
    three_lines(run("scmf-train", "--config", config, weights, f"trainer.result_dir={tmp_path / 'new' / 'run'}"))
    assert not (tmp_path / "new").exists()


def test_a_missing_store_is_told_in_three_lines_and_leaves_nothing(config, tmp_path, monkeypatch):
    _, where, fix = three_lines(run("scmf-train", "--config", config, f"data.store={tmp_path / 'absent'}"))
    assert str(tmp_path / "absent") in where
    assert "scmf-store convert" in fix
    monkeypatch.setattr("scmf.train.cli_train._run_rank", lambda *_: pytest.fail("Megatron is imported for nothing"))
    with pytest.raises(StoreError, match="no such store"):
        train_command(["--config", str(config), f"data.store={tmp_path / 'absent'}"])
    assert not (tmp_path / "run").exists()


def test_a_cut_array_is_named_and_leaves_nothing(config, store, tmp_path):
    array = store / "part-00001" / "X" / "data" / "c" / "0"
    os.truncate(array, array.stat().st_size // 2)
    what, where, fix = three_lines(run("scmf-train", "--config", config, f"data.store={store}"))
    assert "part-00001" in where
    assert "X/data" in where + what
    assert "scmf-store verify" in fix
    assert not (tmp_path / "run").exists()


def test_an_unknown_vocabulary_lists_the_known_ones(config):
    what, _, fix = three_lines(run("scmf-train", "--config", config, "data.tokenizer.vocabulary=genformer-v1"))
    assert "genformer-v1" in what
    assert "geneformer-v1" in fix


def test_more_ranks_than_the_layout_takes_are_refused(config):
    what, _, _ = three_lines(run("scmf-train", "--config", config, "trainer.devices=3", "trainer.parallel.tensor=2"))
    assert "takes 2 ranks a copy" in what


def test_an_explicit_number_of_gpus_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr("scmf.train.machine._gpus", lambda: 2)
    assert devices_to_use("auto") == 2
    assert devices_to_use(1) == 1
    with pytest.raises(MachineError, match="this machine has 2 GPUs") as refused:
        devices_to_use(8)
    assert "trainer.devices=2" in refused.value.fix


@contextmanager
def small_disk(folder, size):
    """A tmpfs of so many bytes, or a skip where mounting is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_the_run_in_three_lines_and_keeps_the_checkpoint_before(config, tmp_path):
    # A checkpoint of this model has 23 MB: the first fits, the second does not.
    with small_disk(tmp_path / "disk", "36m") as disk:
        what, _, fix = three_lines(run("scmf-train", "--config", config, f"trainer.result_dir={disk / 'run'}"))
        assert "could not be written; the disk has" in what
        assert "--resume auto" in fix
        saved = disk / "run" / "checkpoints"
        assert [path.name for path in sorted(saved.iterdir())] == ["best", "last", "step_00000002"]
        assert last_step(disk / "run") >= 2


def test_a_disk_full_from_the_start_is_told_in_three_lines(config, tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        (disk / "filler").write_bytes(bytes(60 * 1024))
        what, _, _ = three_lines(run("scmf-train", "--config", config, f"trainer.result_dir={disk / 'run'}"))
        assert "No space left" in what


def test_a_limit_on_file_sizes_is_told_like_a_full_disk(config, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))

    result = subprocess.run(
        command("scmf-train", "--config", config),
        capture_output=True,
        text=True,
        env=environment(NUMBA_DISABLE_JIT="0"),
        preexec_fn=limit,
        check=False,
    )
    what, _, fix = three_lines(result)
    assert "could not be written" in what
    assert "ulimit" in fix
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_a_folder_that_cannot_be_made_is_told(config, tmp_path):
    (tmp_path / "file").write_text("")
    _, where, _ = three_lines(run("scmf-train", "--config", config, f"trainer.result_dir={tmp_path / 'file' / 'run'}"))
    assert "file" in where


def test_ctrl_c_says_how_to_go_on(config, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_train, "_run_rank", interrupted)
    monkeypatch.setattr(cli_train, "die_with_launcher", lambda: None)
    assert train_command(["--config", str(config)]) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C; --resume auto goes on from the last checkpoint\n"


def test_help_answers_at_once_with_an_example():
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert "scmf-train --config cfg.yaml --resume auto" in succeed("scmf-train", "--help")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.5


def test_a_disk_that_is_full_when_a_save_begins_is_told_in_three_lines(config, tmp_path):
    with small_disk(tmp_path / "disk", "256k") as disk:
        what, _, fix = three_lines(run("scmf-train", "--config", config, f"trainer.result_dir={disk / 'run'}"))
        assert "could not be written" in what or "No space left" in what
        assert "--resume auto" in fix


def test_a_reader_that_goes_away_does_not_stop_the_run(config, tmp_path):
    words = " ".join(map(str, command("scmf-train", "--config", config)))
    subprocess.run(
        ["bash", "-c", f"{words} | head -1"], env=environment(), capture_output=True, timeout=240, check=True
    )
    assert last_step(tmp_path / "run") == 4
    assert "step 4/4" in (tmp_path / "run" / "log.txt").read_text()


def test_10m_pretraining_at_2048_tokens_stays_under_six_gigabytes(demo_store, tmp_path):
    recipe = ["--recipe", "10m-pretrain", "--data-path", str(demo_store.path), "--dest", str(tmp_path / "10m.yaml")]
    succeed("scmf-recipe", *recipe)
    out = succeed("scmf-train", "--config", tmp_path / "10m.yaml", "--dry-run", OMP_NUM_THREADS="2")
    assert "10,300,032 parameters" in out
    assert "16,384 tokens in 1 microbatch" in out
    (peak,) = re.findall(r"([\d.]+) GB resident", out)
    assert float(peak) < 6.0


def test_a_dry_run_checks_the_weights_it_would_start_from_and_takes_no_resume(config, tmp_path):
    weights = f"model.init_from={tmp_path / 'no'}"
    what, where, _ = three_lines(run("scmf-train", "--config", config, "--dry-run", weights))
    assert (what, where) == ("there is no such folder", str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="--dry-run"):
        train_command(["--config", str(config), "--dry-run", "--resume", "auto"])


def test_a_step_larger_than_the_data_is_told(config):
    big = ["data.global_batch_size=400", "data.microbatch_tokens=4096"]
    out = succeed("scmf-train", "--config", config, "--dry-run", *big)
    assert "takes each of the 189 training cells more than once" in out
