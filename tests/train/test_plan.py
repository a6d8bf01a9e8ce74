"""scmf-plan as a user meets it: what a run will take, what fits instead, and what it refuses."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scmf.core.errors import ConfigError, InputError, MachineError, StoreError
from scmf.data.config import SequencesConfig
from scmf.data.objective import NextToken
from scmf.data.sequences.convert import convert_text
from scmf.train.cli_plan import plan_command
from scmf.train.config import ParallelConfig
from scmf.train.flops import training_flops
from scmf.train.plan.cost import Rates, Timing, bubble, fit_rates, validation_share
from scmf.train.plan.lengths import read_lengths
from scmf.train.plan.target import visible_gpus
from scmf.train.plan.workload import full_shape, look_at_stream, shape_of
from support.command import environment, run, succeed, three_lines
from support.real import real_config, write_config
from support.tiny import tiny_config
from support.warm import warm_programs

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_plan.py"


@pytest.fixture
def config(demo_store, tmp_path):
    return write_config(real_config(demo_store.path, tmp_path / "run"), tmp_path / "cfg.yaml")


@pytest.fixture
def plan(capsys):
    """Runs the command in this process; what it prints as JSON, or its lines."""

    def planned(*words):
        assert plan_command([*map(str, words)]) == 0
        printed = capsys.readouterr().out
        return json.loads(printed) if "--json" in words else printed

    return planned


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_a_plan_says_work_memory_and_batch_of_the_cells_that_the_run_will_draw(plan, config, demo_store, no_gpu):
    said = plan("--config", config, "--json")
    loaded = real_config(demo_store.path, config.parent)
    assert said["parameters"] == loaded.model.n_parameters(25_426, 96)
    assert (said["batch"]["cells"], said["lengths"]["mean"]) == (8, 96.0)  # every cell of the demo is longer than 96
    assert said["batch"]["tokens"] == 8 * 96
    assert said["memory_bytes"]["weights"] == 4 * said["parameters"]
    assert said["memory_bytes"]["total"] == sum(
        size for part, size in said["memory_bytes"].items() if part not in ("total", "fits")
    )
    masked = round(96 * 0.15)
    by_hand = training_flops(loaded.model, lengths=[96], targets=masked, vocabulary_size=25_426)
    assert said["flops_per_cell"] == pytest.approx(by_hand, rel=0.05)
    assert said["speeds"] == []
    assert not Path(config.parent / "run").exists()


def test_a_plan_for_people_says_what_is_assumed(plan, config):
    said = plan("--config", config, "--hardware", "h200", "--devices", "4")
    for words in (
        "8 cells a step (768 tokens) on 4 replicas, 4 devices of NVIDIA H200 SXM",
        "if 15% of the peak is reached (assumed)",
        "if 40% of the peak is reached (assumed)",
        "GPU-hours",
        "is the largest microbatch that fits",
        "a save copies",
    ):
        assert words in said
    assert "note   a layer of a microbatch would take" in said  # 4 layers x 64: a GPU only starts kernels
    large = ("model.hidden=4096", "model.ffn=16384", "model.heads=32", "data.global_batch_size=4096", "--lengths", "96")
    said = plan("--config", config, "--hardware", "h200", "--share", "0.3", *large, "data.microbatch_tokens=16384")
    assert "if 30% of the peak" in said
    assert "note" not in said


def test_without_a_peak_the_speed_is_not_guessed(plan, config, no_gpu):
    assert "speed  not known" in plan("--config", config)


def test_time_follows_from_the_assumed_share_and_hours_from_steps_validation_and_devices(plan, config):
    words = ("--config", config, "--hardware", "a100", "--devices", "2", "--share", "0.5", "--json")
    said = plan(*words, "trainer.validate.every=10", "trainer.validate.batches=3")
    (speed,) = said["speeds"]
    computed = said["flops_per_step_and_replica"]["computed"]
    assert speed["seconds_per_step"] == pytest.approx(computed / (0.5 * 312e12))
    assert speed["cells_per_s"] == pytest.approx(8 / speed["seconds_per_step"])
    # 21 cells are held out: 2.6 batches of 8, a third of a step's work each, every 10 steps.
    assert speed["hours"] == pytest.approx(30 * speed["seconds_per_step"] * (1 + 21 / 8 / 30) / 3600)
    assert speed["device_hours"] == pytest.approx(2 * speed["hours"])
    assert speed["mfu"] < speed["share"] == pytest.approx(0.5)


def test_replicas_share_a_step_and_what_all_of_them_have_is_not_taken_from_the_first(plan, config):
    alone, shared = (
        plan("--config", config, "--json", "--hardware", "h100", "--devices", n, "data.tokenizer.seq_length=4096",
             "data.microbatch_tokens=16384")
        for n in (1, 4)
    )  # fmt: skip
    assert shared["batch"]["tokens"] == pytest.approx(alone["batch"]["tokens"])
    assert shared["flops_per_cell"] == pytest.approx(alone["flops_per_cell"], rel=0.01)
    whole = 4 * shared["flops_per_step_and_replica"]["real"]
    assert whole == pytest.approx(alone["flops_per_step_and_replica"]["real"], rel=0.01)


def test_a_padded_run_computes_its_padding_and_has_the_same_real_work(plan, config):
    long = ("data.tokenizer.seq_length=4096", "data.microbatch_tokens=16384")
    padded = ("data.packing=false", "data.microbatch_tokens=null", "data.micro_batch_size=4")
    packs = plan("--config", config, "--json", *long)
    pads = plan("--config", config, "--json", long[0], *padded)
    assert pads["flops_per_cell"] == pytest.approx(packs["flops_per_cell"])
    assert pads["batch"]["fill"] < packs["batch"]["fill"]
    assert (
        pads["flops_per_step_and_replica"]["computed"] / pads["flops_per_step_and_replica"]["real"]
        > packs["flops_per_step_and_replica"]["computed"] / packs["flops_per_step_and_replica"]["real"]
    )


def test_cells_without_a_store_are_laid_out_as_those_of_a_store(plan, config, tmp_path):
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("96\n" * 50)
    real = plan("--config", config, "--json", "--hardware", "h200")
    for given in ("96", lengths):
        said = plan("--config", config, "--json", "--hardware", "h200", "data.store=nowhere", "--lengths", given)
        assert said["batch"] == pytest.approx(real["batch"], rel=0.01)
        assert said["flops_per_cell"] == pytest.approx(real["flops_per_cell"], rel=0.05)


def test_epochs_without_a_store_need_the_number_of_cells(plan, config):
    words = ["--config", str(config), "--hardware", "h200", "--lengths", "96", "trainer.max_steps=null",
             "trainer.max_epochs=2"]  # fmt: skip
    with pytest.raises(ConfigError, match="only where the number of cells is known"):
        plan_command(words)
    assert "100 steps take" in plan(*words, "--cells", "400")


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".txt"])
def test_lengths_are_read_from_every_format(tmp_path, suffix):
    import pandas as pd

    path = tmp_path / f"lengths{suffix}"
    if suffix == ".npy":
        np.save(path, np.array([3, 0, 5]))
    elif suffix == ".parquet":
        pd.DataFrame({"cell_id": [0, 1, 2], "length": [3, 0, 5]}).to_parquet(path)
    else:
        path.write_text("3\n0\n5\n")
    assert read_lengths(str(path)).tolist() == [3, 5]  # a cell without tokens is in no microbatch


@pytest.mark.parametrize(
    ("content", "what"),
    [("1.5 2", "whole numbers"), ("3 x", "does not hold lengths"), ("0 0", "0 tokens"), ("", "at least one")],
)
def test_what_is_no_length_is_refused(tmp_path, content, what):
    path = tmp_path / "lengths.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=what):
        read_lengths(str(path))
    pickled = tmp_path / "lengths.npy"
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="does not hold lengths"):
        read_lengths(str(pickled))
    pickled.write_bytes(b"")
    with pytest.raises(InputError, match="does not hold lengths"):
        read_lengths(str(pickled))


BIG = ("model.layers=48", "model.hidden=2048", "model.ffn=8192", "model.heads=16", "data.tokenizer.seq_length=2048",
       "data.microbatch_tokens=65536", "data.global_batch_size=64")  # fmt: skip


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        pytest.param(["--hardware", "h200"], ["data.microbatch_tokens="], id="a smaller microbatch"),
        pytest.param(["--hardware", "l40s"], ["trainer.parallel."], id="another layout"),
        pytest.param(
            ["--hardware", "t4", "--devices", "2", "trainer.precision=fp16"], ["--devices=", "--nodes="], id="devices"
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_a_command_that_does(plan, config, words, changed):
    with pytest.raises(MachineError, match=r"the run needs .* GB a device") as caught:
        plan_command(["--config", str(config), *words, *BIG, "--lengths", "1442"])
    program, *fix = shlex.split(caught.value.fix)
    assert program == "scmf-plan"
    assert all(any(word.startswith(part) for word in fix) for part in changed)
    assert plan(*fix, "--json")["memory_bytes"]["fits"]


def test_a_model_that_fits_nowhere_is_said_to(config):
    giant = ("model.layers=96", "model.hidden=65536", "model.ffn=262144", "model.heads=64")
    with pytest.raises(MachineError) as caught:
        plan_command(["--config", str(config), "--hardware", "t4", "trainer.precision=fp16", *giant])
    assert "no layout of 1,024 devices fits" in caught.value.fix


def test_a_missing_store_is_told_with_the_command_that_plans_without(plan, config, tmp_path):
    absent = f"data.store={tmp_path / 'ab sent'}"
    with pytest.raises(StoreError, match="no such store") as caught:
        plan_command(["--config", str(config), "--hardware", "h200", absent])
    fix = caught.value.fix.partition("; to plan without a store: scmf-plan ")[2]
    assert "FLOP a cell" in plan(*shlex.split(fix))


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        pytest.param(["--hardware", "h2000"], "no hardware is called", "--hardware h200", id="unknown hardware"),
        pytest.param(["--hardware", "a100", "trainer.precision=fp8"], "no peak", "bf16", id="precision"),
        pytest.param(["--hardware", "h200", "--probe"], "another", "leave out", id="probe of another machine"),
        pytest.param(["--probe", "--lengths", "5"], "real steps", "leave out", id="probe without a store"),
        pytest.param(["--probe", "trainer.devices=2"], "measures one process", "leave out", id="probe of two ranks"),
        pytest.param(["--probe", "0"], "no time", "--probe 30", id="probe of no time"),
        pytest.param(["--share", "1.5"], "no share of a peak", "--share LOW[,HIGH]: ", id="share"),
        pytest.param(["--share", "half"], "no share of a peak", "--share LOW[,HIGH]: ", id="share in words"),
        pytest.param(["--devices", "0"], "less than 1", "--devices N: ", id="devices"),
        pytest.param(["--nodes", "lots"], "lots is no whole number", "--nodes N: ", id="nodes in words"),
        pytest.param(
            ["--hardware", "h200", "--devices", "3"],
            "3 data-parallel ranks",
            "use a multiple: 9",
            id="batch over ranks",
        ),
        pytest.param(["--cells", "400"], "looks into the store", "--lengths", id="cells beside a store"),
        pytest.param(["--probe=nan"], "no time, or for ever", "--probe 30", id="no time"),
        pytest.param(["--hardwear", "h200"], "did you mean --hardware", "--hardware", id="misspelt flag"),
    ],
)
def test_a_mistake_is_told_in_three_lines(config, no_gpu, words, what, fix):
    with pytest.raises(ConfigError) as caught:
        plan_command(["--config", str(config), *words])
    told = str(caught.value).splitlines()
    assert len(told) == 3
    assert what in told[0] + told[1] + told[2]
    assert fix in told[2]


def test_this_machines_gpus_are_those_of_its_driver(plan, config, tmp_path, monkeypatch):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nprintf 'NVIDIA A100-SXM4-80GB, 81920\\nNVIDIA A100-SXM4-80GB, 81920\\n'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == (("NVIDIA A100-SXM4-80GB", 81920 * 2**20),) * 2
    assert "2 devices of NVIDIA A100-SXM4-80GB" in plan("--config", config)
    for words, left in (("1", 1), ("0,1", 2), ("GPU-8f0c", 1), ("0,7,1", 1), ("-1", 0), ("", 0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", words)
        assert len(visible_gpus()) == left
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    driver.write_text("#!/bin/sh\necho no devices; exit 9\n")
    with pytest.raises(MachineError, match="nvidia-smi does not say"):
        visible_gpus()


def test_a_step_takes_what_its_parts_take():
    model = tiny_config().model
    step = (full_shape(512, longest=64, share=0.0),) * 2

    def seconds(**rate):
        rates = Rates(**{"step": 0.0, "microbatch": 0.0, "linear": 0.0, "pair": 0.0} | rate)
        return rates.seconds(model, step, vocabulary_size=900)

    assert (seconds(step=1.0), seconds(microbatch=1.0)) == (1.0, 2.0)
    assert seconds(pair=1.0) == 2 * 8 * 64**2
    assert seconds(linear=1.0) == 2 * 3 * 4 * 512 * (8 * 64**2 + 4 * 64 * 128)  # 4 layers of 64 x 128


def test_rates_explain_steps_that_differ_and_none_is_negative():
    model = tiny_config().model
    true = Rates(step=0.05, microbatch=0.01, linear=2e-10, pair=3e-8)
    steps = [(full_shape(n, longest=n, share=0.15),) * times for n, times in ((128, 1), (128, 2), (512, 1), (256, 3))]
    steps.append((full_shape(512, longest=64, share=0.15),))
    timings = [Timing(step, true.seconds(model, step, vocabulary_size=900)) for step in steps]
    found = fit_rates(model, timings, vocabulary_size=900)
    large = (full_shape(4096, longest=512, share=0.15),) * 5
    expected = true.seconds(model, large, vocabulary_size=900)
    assert found.seconds(model, large, vocabulary_size=900) == pytest.approx(expected, rel=1e-6)
    noisy = [Timing(t.step, t.seconds * factor) for t, factor in zip(timings, (0.7, 1.4, 0.8, 1.2, 1.0), strict=True)]
    rates = fit_rates(model, noisy, vocabulary_size=900)
    assert min(rates.step, rates.microbatch, rates.linear, rates.pair) >= 0.0


def test_pipeline_ranks_wait_at_the_ends_of_a_step_and_less_when_interleaved():
    assert bubble(ParallelConfig(), 4) == 1.0
    assert bubble(ParallelConfig(pipeline=4), 8) == 1 + 3 / 8
    assert bubble(ParallelConfig(pipeline=4, interleave=2), 8) == 1 + 3 / 16


def test_a_run_that_never_validates_takes_no_time_for_it():
    never = tiny_config(trainer__validate={"every": None})
    assert validation_share(never, n_validation=100) == 0.0
    often = tiny_config(trainer__validate={"every": 2, "batches": 3})
    assert validation_share(often, n_validation=None) == pytest.approx(0.5)
    assert validation_share(often, n_validation=8) == pytest.approx(1 / 6)  # one batch of 8 is all there is


def test_the_work_of_windows_that_go_over_the_ends_of_texts_is_that_of_their_pieces(tmp_path):
    paths = [tmp_path / f"{number}.txt" for number in range(40)]
    for path in paths:
        path.write_text("abcdefghij" * 3)
    convert_text(paths, tmp_path / "store", log=lambda _: None)
    words = {
        "kind": "sequences",
        "store": str(tmp_path / "store"),
        "tokenizer": {"kind": "char", "seq_length": 80},
        "split": {"kind": "contiguous", "validation": 0.0},
        "global_batch_size": 5,
        "microbatch_tokens": 240,
    }
    stream = SequencesConfig.model_validate(words).open(objective=NextToken(), seed=1)
    work = look_at_stream(stream, stream, max_steps=6, replicas=1)
    assert work.tokens_per_step == pytest.approx(5 * 80)
    assert (work.lengths.max(), work.target_share) == (30, 1.0)
    assert work.pieces > 3


def test_small_microbatches_of_a_probe_are_whole_cells_of_the_runs_own():
    from scmf.train.plan.probe import cells_cut_in_two, first_cells
    from support.tiny import drawn_step

    pack = drawn_step(0, replica=0, replicas=1).microbatches[0]
    small = first_cells(pack, tokens=100)
    whole, few = shape_of(pack, packing=True), shape_of(small, packing=True)
    assert few.cells.tolist() == whole.cells[: len(few.cells)].tolist()
    assert few.tokens <= 100 < few.tokens + whole.cells[len(few.cells)]
    assert (few.segments.sum(), len(small.positions), few.positions % 128) == (few.positions, few.positions, 0)
    assert small.input_ids.tolist() == pack.input_ids[: few.positions].tolist() or few.positions < few.tokens + 128
    assert (small.target_positions < few.tokens).all()
    cut = cells_cut_in_two(small)
    assert (cut.positions < cut.longest).all()
    assert (np.diff(cut.cu_seqlens) ** 2).sum() < 0.6 * (few.segments**2).sum()
    assert cut.cu_seqlens[-1] == few.positions


def test_a_probe_measures_this_machine_and_calibrates_speed_and_memory(config):
    said = json.loads(succeed("scmf-plan", "--config", config, "--probe", "0.5", "--json", CUDA_VISIBLE_DEVICES=""))
    (speed,) = said["speeds"]
    assert speed["basis"] == "measured"
    assert speed["seconds_per_step"] > 0 < said["probe"]["processor_seconds_per_step"]
    assert said["probe"]["rounds"] >= 3
    assert 0 < said["probe"]["positions"] <= 4 * 96 + 128
    assert "allocator" in said["memory_bytes"]
    assert said["memory_bytes"]["total"] > said["probe"]["peak_bytes"] / 2
    what, where, fix = three_lines(run("scmf-plan", "--config", config, "--probe", "trainer.parallel.tensor=2"))
    assert "cannot" in what or "takes 2 ranks" in what
    assert where
    assert fix


def test_the_script_that_checks_plans_compares_time_and_memory_with_a_run(demo_store):
    programs = warm_programs()
    done = subprocess.run(
        [sys.executable, SCRIPT, "--store", demo_store.path, "--cases", "tiny", "--steps", "4", "--probe", "0.5"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(PATH=f"{programs}:{environment()['PATH']}"),
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[2].strip() for line in done.stdout.splitlines() if line.startswith("| tiny")]
    assert rows == ["s a step, clock", "s a step, processors", "GB at the peak"]
