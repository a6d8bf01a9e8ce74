"""Watching whole runs: times that add up, MFU by formula, Weights & Biases, profiles, disks that are full."""

from __future__ import annotations

import json
import math
import re
import socket
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scmf.core.errors import ConfigError, MachineError
from scmf.data.step_stream import ALONE
from scmf.train import out_of_memory, profiler
from scmf.train.checkpoint import CheckpointFolder, read_progress
from scmf.train.config import CheckpointConfig
from scmf.train.flops import training_flops
from scmf.train.log_config import ProfileConfig, WandbConfig
from scmf.train.metric_names import ALIASES
from scmf.train.objective import objective_of
from scmf.train.out_of_memory import refuse_memory_history, told_when_memory_runs_out
from scmf.train.phases import PHASES, Clock
from scmf.train.profiler import Profiler, refuse_profile
from scmf.train.utilisation import cell_lengths, find_meter
from scmf.train.wandb_mirror import WandbMirror, new_id, refuse_without_wandb
from support.command import lines, run, three_lines
from support.faulty import SMALL, Outcome
from support.real import real_config, write_config
from support.tiny import drawn_step, tiny_config
from support.watched import fit_on_full_disk, watch

PEAK = "trainer.log.peak_tflops=0.001"
WATCHED = (
    PEAK,
    "trainer.max_steps=6",
    "trainer.log.every=2",
    "trainer.log.tensorboard=true",
    "trainer.log.wandb={project: cells, name: a run, tags: [x, y]}",
    "trainer.validate.every=3",
    "trainer.profile={start: 3, steps: 2}",
)
"""A run of six steps with everything that watches it."""


@pytest.fixture(scope="module")
def store(demo_store):
    return demo_store.path


@pytest.fixture(scope="module")
def proxy():
    """A socket that waits for whoever wants to send something."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture(scope="module")
def watched(store, proxy, tmp_path_factory):
    """Folder of the run, how it ended, and what it left running."""
    directory = tmp_path_factory.mktemp("watched") / "run"
    (ended,) = watch(store, directory, *WATCHED, proxy=proxy.getsockname()[1])
    return directory, *ended


@pytest.fixture(scope="module")
def resumed(watched, store, proxy, tmp_path_factory):
    """The same run, with two more steps."""
    words = [*WATCHED, "trainer.max_steps=8", "trainer.log.verbosity=0"]
    (ended,) = watch(store, watched[0], *words, proxy=proxy.getsockname()[1], resume="auto")
    return watched[0], *ended


def test_times_add_up_to_the_wall_time_from_which_the_rates_are_taken(watched):
    told = [line for line in lines(watched[0] / "metrics.jsonl") if "train/loss" in line][:3]
    assert [line["step"] for line in told] == [2, 4, 6]
    for line in told:
        seconds = {name: line[f"time/{name}"] for name in PHASES}
        working = sum(seconds.values()) - seconds["validation"] - seconds["save"]
        assert working == pytest.approx(8 / line["speed/cells_per_s"])  # two steps of four cells
        assert line["speed/data_wait"] == pytest.approx(seconds["data_wait"] / working)
        assert min(seconds.values()) >= 0.0
        assert seconds["forward_backward"] > 0.0
        assert seconds["optimizer"] > 0.0
        assert seconds["communication"] == 0.0  # nobody to talk to
    assert [line["time/validation"] > 0.0 for line in told] == [False, True, True]  # steps 3 and 6
    assert (watched[0] / "log.txt").read_text().count("   time  ") == 3


def expected_flops(store, directory, steps):
    """By the formula, from the cells that steps (from 0) draw."""
    config = real_config(store, directory, *SMALL)
    stream = config.data.open(
        objective=objective_of(config.model.task), seed=config.trainer.seed, replica=ALONE, align=128
    )
    packs = [pack for step in steps for pack in stream.step(4 * step).microbatches]
    lengths = [n for pack in packs for n in np.diff(pack.cu_seqlens)[: len(pack.cell_ids)].tolist()]
    targets = sum(len(pack.targets) for pack in packs)
    return training_flops(config.model, lengths=lengths, targets=targets, vocabulary_size=len(stream.vocabulary))


def flops_of(line, *, cells, devices):
    """What a line of metrics.jsonl says was computed since the line before."""
    return line["speed/mfu"] * (cells / line["speed/cells_per_s"]) * 1e9 * devices


def test_mfu_is_the_formula_on_the_cells_of_the_interval(watched, store):
    line = next(line for line in lines(watched[0] / "metrics.jsonl") if line["step"] == 6)
    assert flops_of(line, cells=8, devices=1) == pytest.approx(expected_flops(store, watched[0], (4, 5)), rel=1e-4)
    assert "  MFU " in (watched[0] / "log.txt").read_text()


def test_cells_are_told_from_padding_where_each_is_followed_by_it():
    pack = replace(
        drawn_step(0, replica=0, replicas=1).microbatches[0],
        input_ids=np.array([7, 1, 7, 0, 0, 7, 7, 7, 7, 7, 9, 0, 0, 0, 0], np.int32),
        cu_seqlens=np.array([0, 3, 5, 10, 11, 15], np.int32),
        cell_ids=np.arange(2),
        tokens=10,
    )
    assert cell_lengths(pack, 0).tolist() == [3, 5, 1]
    # In a packed one real tokens come first, also where a window is of several pieces.
    assert cell_lengths(pack, None).tolist() == [3, 2, 5]


@pytest.mark.parametrize(
    ("device", "words", "says"),
    [
        pytest.param("cpu", {}, "no peak in bf16 is known of cpu; trainer.log.peak_tflops gives one", id="CPU"),
        pytest.param("NVIDIA H100 80GB HBM3 MIG 1g.10gb", {}, "no peak in bf16 is known of NVIDIA H100", id="a slice"),
        pytest.param("cpu", {"trainer__log__peak_tflops": 2.0}, None, id="given"),
        pytest.param("NVIDIA H100 80GB HBM3", {}, None, id="known"),
    ],
)
def test_utilisation_is_left_out_with_a_sentence_where_no_peak_is_known(device, words, says):
    stream = SimpleNamespace(vocabulary=type("V", (), {"__len__": lambda _: 900, "pad": 0})())
    meter, why = find_meter(tiny_config(**words), stream, device=device, precision="bf16", ranks=4)
    if says is None:
        assert why is None
        assert meter.peak == pytest.approx({"cpu": 2e12}.get(device, 989e12) * 4, rel=1e-3)
    else:
        assert meter is None
        assert says in why


def history(directory):
    """What every run file of Weights & Biases in a folder holds: (identity, project, lines of numbers)."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    found = []
    for path in sorted(directory.glob("wandb/offline-run-*/run-*.wandb")):
        file, told, run_record = DataStore(), [], None
        file.open_for_scan(str(path))
        while (data := file.scan_data()) is not None:
            record = Record.FromString(data)
            run_record = record.run if record.HasField("run") else run_record
            if record.HasField("history"):
                items = record.history.item
                told.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
        file._fp.close()
        found.append((run_record, told))
    return found


def test_weights_and_biases_has_the_numbers_of_metrics_jsonl_without_a_login(watched):
    ((record, told), *_) = history(watched[0])
    assert (record.project, record.display_name, list(record.tags)) == ("cells", "a run", ["x", "y"])
    settings = {update.key: json.loads(update.value_json) for update in record.config.update}
    assert settings["trainer"]["max_steps"] == 6
    written = lines(watched[0] / "metrics.jsonl")[: len(told)]
    assert [{k: line[k] for k in written[i]} for i, line in enumerate(told)] == written
    assert record.run_id == json.loads((watched[0] / "run.json").read_text())["starts"][0]["wandb"]["id"]


def test_a_resumed_run_goes_on_in_the_same_run_of_weights_and_biases(resumed):
    (first, _), (second, told) = history(resumed[0])
    assert first.run_id == second.run_id
    assert [line["step"] for line in told] == [8]
    assert new_id() != new_id()


def test_offline_nothing_is_sent_and_nothing_is_left_running(watched, resumed, proxy):
    for ended in (watched, resumed):
        assert ended[1:] == (Outcome(0), [], [])
    with pytest.raises(BlockingIOError):  # nobody has called
        proxy.accept()


def test_a_quiet_run_logs_everything_that_it_does_not_show(resumed):
    log = (resumed[0] / "log.txt").read_text()
    assert "step 8/8  loss" in log
    assert "WARNING nothing was profiled: this start has not come by step 3 (trainer.profile.start)" in log


@pytest.fixture(scope="module")
def offline_config(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    return write_config(real_config(store, folder / "run"), folder / "cfg.yaml")


def test_sending_without_a_login_is_refused_before_anything_is_built(offline_config, tmp_path):
    said = run(
        "scmf-train",
        *("--config", offline_config, "trainer.log.wandb={mode: online}", f"trainer.result_dir={tmp_path}/run"),
        HOME=str(tmp_path),
        WANDB_API_KEY="",
    )
    what, where, fix = three_lines(said)
    assert what == "trainer.log.wandb.mode=online sends the metrics, and there is no login for Weights & Biases"
    assert where == "trainer.log.wandb.mode"
    assert fix.startswith("wandb login")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_told_before_training(offline_config, tmp_path):
    (tmp_path / "file").write_text("")
    said = run("scmf-train", "--config", offline_config, "-q", f"trainer.result_dir={tmp_path}/file/run")
    what, where, fix = three_lines(said)
    assert what == "Not a directory"
    assert where.startswith(str(tmp_path / "file"))
    assert "name another" in fix
    assert said.stdout == ""


def test_a_service_that_cannot_be_reached_is_told_in_a_sentence_with_the_way_out(monkeypatch, tmp_path):
    import wandb

    def refuse(**_):
        raise wandb.errors.CommError("Timed out initializing run\nConsider something else")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(MachineError) as refused:
        WandbMirror(tmp_path, WandbConfig(mode="online"), identity="x", settings={})
    assert refused.value.what == "Weights & Biases did not begin a run (online): Timed out initializing run"
    assert "trainer.log.wandb.mode=offline" in refused.value.fix


def test_a_missing_library_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MachineError) as refused:
        refuse_without_wandb(WandbConfig())
    assert refused.value.fix == "pip install wandb, or add trainer.log.wandb=null"
    refuse_without_wandb(None)


def test_a_profile_after_the_last_step_is_refused():
    with pytest.raises(ConfigError, match=r"trainer.profile.start=1001 comes after the last step"):
        tiny_config(trainer__profile={"start": 1001})


@pytest.mark.parametrize("name", ["a/b", "what?"])
def test_a_project_that_weights_and_biases_would_refuse_is_refused_in_the_config(name):
    with pytest.raises(ConfigError) as refused:
        WandbConfig.parse({"project": name}, source="a file")
    assert "which W&B takes in no project's name" in refused.value.what


def test_a_profile_has_the_phases_and_the_operations_of_its_steps_and_a_table(watched):
    trace = json.loads((watched[0] / "profile" / "rank_0.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"]]
    assert "aten::mm" in names
    for phase in ("forward_backward", "optimizer"):
        assert names.count(phase) >= 2  # each of the two steps
    log = (watched[0] / "log.txt").read_text()
    table = log.partition("operation  ")[2].splitlines()
    assert "profile of rank 0, steps 3 to 4, in " in log
    assert len([line for line in table[1:11] if line.endswith("%")]) == 10


def test_marks_for_nvidias_profiler_are_set_around_the_steps_and_name_the_phases(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(profiler, "capture_for_profiler", lambda *, on: told.append(on))
    monkeypatch.setattr(profiler, "named_range", lambda name: nullcontext(told.append(name)))
    clock, world = Clock(), SimpleNamespace(rank=1, device=torch.device("cuda"))
    settings = ProfileConfig(tool="nsys", start=2, steps=2, ranks=(1,))
    marking = Profiler(settings, folder=tmp_path, world=world, clock=clock)
    for step in (1, 2, 3, 4, 2, 3):  # a rollback takes steps again
        marking.before(step)
        with clock.phase("optimizer"):
            pass
        marking.after(step, SimpleNamespace())
    marking.end(SimpleNamespace())
    assert told == [True, "optimizer", "optimizer", False]


def test_a_profile_is_begun_once_and_one_that_cannot_be_written_leaves_the_run_alone(tmp_path):
    said, folder = [], tmp_path / "profile"
    folder.write_text("no folder")
    world, clock = SimpleNamespace(rank=0, device=torch.device("cpu")), Clock()
    recording = Profiler(ProfileConfig(start=2, steps=2), folder=folder, world=world, clock=clock)
    for step in (1, 2, 2, 3):  # the second step fails, and comes again
        recording.before(step)
        recording.after(step, SimpleNamespace(warn=said.append))
    assert len(said) == 1
    assert said[0].startswith(f"the profile of rank 0, steps 2 to 3, is not in {folder}/rank_0.json: ")


def test_what_only_a_gpu_has_is_refused_on_a_cpu():
    cpu = torch.device("cpu")
    with pytest.raises(MachineError, match="marks steps for NVIDIA's profiler"):
        refuse_profile(ProfileConfig(tool="nsys"), cpu)
    with pytest.raises(MachineError, match="history of a GPU's memory"):
        refuse_memory_history(True, cpu)
    refuse_profile(ProfileConfig(), cpu)
    refuse_memory_history(False, cpu)


def test_memory_that_runs_out_is_told_with_a_smaller_microbatch_and_leaves_its_history(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(out_of_memory, "remember_allocations", lambda: told.append("begun"))
    monkeypatch.setattr(out_of_memory, "write_allocations", told.append)

    def run_out():
        with told_when_memory_runs_out(tmp_path, history=True, rank=2, data=tiny_config().data):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand much more text")

    with pytest.raises(MachineError) as error:
        run_out()
    assert error.value.what == "memory ran out: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert error.value.fix.startswith("add data.microbatch_tokens=128 and --resume auto")
    assert told == ["begun", tmp_path / "memory_rank_2.pickle"]
    assert str(told[1]) in error.value.where


def test_other_errors_pass_where_memory_is_watched(tmp_path):
    def fail():
        with told_when_memory_runs_out(tmp_path, history=False, rank=0, data=tiny_config().data):
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        fail()


def test_the_page_on_metrics_lists_every_alias():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    rows = [line.split("|")[2:4] for line in page.partition("| what | elsewhere | here |")[2].splitlines()[2:13]]
    listed = {alias: here.strip(" `") for elsewhere, here in rows for alias in re.findall(r"`(.+?)`", elsewhere)}
    assert listed == ALIASES


@pytest.fixture(scope="module")
def full_disk(store, tmp_path_factory):
    """Two ranks on a disk that is full from step 3 on."""
    directory = tmp_path_factory.mktemp("full") / "run"
    words = (PEAK, "trainer.checkpoint.every=100", "trainer.log.tensorboard=true")
    return directory, fit_on_full_disk(store, directory, *words, step=3)


def test_metrics_that_cannot_be_written_end_the_run_on_all_ranks_after_a_save(full_disk):
    directory, (first, second) = full_disk
    assert (first.what, second) == ("No space left on device while writing", Outcome(1))
    assert first.where == str(directory / "metrics.jsonl")
    assert first.fix == "make room, then go on with --resume auto"
    assert [line["step"] for line in lines(directory / "metrics.jsonl")] == [1, 2]
    saved = CheckpointFolder(directory / "checkpoints", CheckpointConfig()).newest()
    assert read_progress(saved).step == 3
    log = (directory / "log.txt").read_text()
    assert "step 3/12  loss" in log
    assert "ERROR No space left on device while writing" in log


def test_ranks_wait_for_each_other_in_communication_and_share_the_flops(full_disk, store):
    line = lines(full_disk[0] / "metrics.jsonl")[1]
    assert line["time/communication"] > 0.0
    assert not math.isnan(line["train/loss_ema"])
    expected = expected_flops(store, full_disk[0], (1,))
    assert flops_of(line, cells=4, devices=2) == pytest.approx(expected, rel=1e-4)
