"""FLOPs by formula, and the scripts that report them."""

from __future__ import annotations

import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from scmf.model.config import EncoderConfig
from scmf.train.flops import training_flops, utilisation
from scmf.train.recipes import find_recipe

SCRIPTS = Path(__file__).parents[2] / "scripts"
SIZES = EncoderConfig(layers=3, hidden=8, ffn=24, heads=2, pad_vocabulary_to=10)


def products(lengths, targets):
    """Multiplications of every product of a forward pass, one after the other."""
    for _ in range(SIZES.layers):
        for length in lengths:
            yield from (length * 8 * 24, length * 8 * 8)  # queries, keys and values; projection
            yield from (length * 8 * length, length * length * 8)  # scores; context
            yield from (length * 8 * 24, length * 24 * 8)  # feed-forward
    yield from (targets * 8 * 8, targets * 8 * 40)  # head: dense, 31 tokens padded to 40


def test_the_formula_counts_every_product_three_times_and_an_addition_with_every_multiplication():
    flops = training_flops(SIZES, lengths=[5, 11], targets=3, vocabulary_size=31)
    assert flops == 2 * 3 * sum(products([5, 11], 3))


def test_the_106m_model_takes_one_teraflop_a_cell():
    model = find_recipe("106m-pretrain").config().model
    flops = training_flops(model, lengths=[1442], targets=216, vocabulary_size=25_426)
    assert flops == pytest.approx(0.99e12, rel=0.01)


def test_utilisation_is_the_share_of_the_peak():
    assert utilisation(4e12, seconds=2.0, peak=8e12) == 0.25


@pytest.fixture
def gpu_script(monkeypatch):
    """The script for GPU machines, imported; it refuses to be run here."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return runpy.run_path(str(SCRIPTS / "gpu" / "check_and_time.py"))


def test_the_gpu_script_plans_without_a_gpu(gpu_script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_and_time.py", "--plan", "--cells", "16", "--sizes", "106m"])
    gpu_script["main"]()
    packed, fp8, padded = capsys.readouterr().out.splitlines()
    assert packed.startswith("106m bf16 packed: 16 cells")
    assert fp8.startswith("106m fp8 packed")
    fill = [int(line.partition("%")[0].rpartition(" ")[2]) for line in (packed, padded)]
    assert fill[0] > fill[1]
    assert packed.partition(";")[2] == padded.partition(";")[2]  # the same real work


def test_the_gpu_script_refuses_a_machine_without_a_gpu_in_one_sentence(gpu_script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["check_and_time.py"])
    with pytest.raises(SystemExit, match="no GPU is visible here"):
        gpu_script["main"]()


def test_the_gpu_script_reads_the_attention_that_was_chosen(gpu_script):
    log = (
        "[DEBUG] x: Available backends = {...}\n[DEBUG | DotProductAttention]: Selected backend = FusedAttention\n" * 2
    )
    assert gpu_script["chosen_attention"](log) == "FusedAttention"
    assert "NVTE_DEBUG" in gpu_script["chosen_attention"]("nothing of the kind")


def test_the_benchmark_of_training_times_packed_and_padded_side_by_side():
    words = ["--layers", "1", "--cells", "2", "--micro", "1", "--budget", "2048", "--rounds", "1", "--threads", "1"]
    command = [sys.executable, SCRIPTS / "bench_train.py", *words, "--overhead"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| scmf")] == [
        "scmf packed",
        "scmf padded",
    ]
    share = float(done.stdout.rpartition("loop: ")[2].partition("%")[0])
    assert 0.0 <= share < 50.0  # a measurement, not a bound: one layer of two cells


@pytest.mark.parametrize(
    ("kind", "positions"),
    [("encoder", "learned"), ("post-norm", "learned"), ("decoder", "rotary"), ("fsdp", "learned")],
)
def test_the_gpu_script_compares_models_of_every_kind(gpu_script, kind, positions):
    assert kind in gpu_script["KINDS"]
    config = sys.modules["gpu_cases"].small_case(kind, "bf16")
    assert (config.model.positions, config.trainer.precision) == (positions, "bf16")
    assert (config.model.norm == "post", config.trainer.parallel.fsdp) == (kind == "post-norm", kind == "fsdp")


def test_a_check_of_the_gpu_script_that_fails_is_told_and_the_next_one_begins(gpu_script, capsys):
    def broken():
        raise gpu_script["CheckFailedError"]("no answer after 3 s")

    checks = [
        gpu_script["Check"]("speed", "first", broken),
        gpu_script["Check"]("speed", "second", lambda: "| a row |"),
    ]
    assert gpu_script["run_all"](checks) == ["first"]
    said = capsys.readouterr().out
    assert "FAILED  first: no answer after 3 s" in said
    assert "| a row |" in said
    assert "1 of 2 ok; failed: first" in said


@pytest.mark.parametrize("wrong", [0.0, 1e-3, float("nan")])
def test_the_gpu_script_takes_only_rounding_for_rounding(gpu_script, wrong):
    asker = SimpleNamespace(ask=lambda *_, **__: [10.0, 9.0, 8.0 + wrong, 7.0])
    parity = partial(gpu_script["_parity"], asker, lambda: [10.0, 9.0, 8.0, 7.0], "encoder", "fp32")
    if wrong == 0.0:
        assert "10.000 -> 7.000" in parity()
    else:
        with pytest.raises(gpu_script["CheckFailedError"], match="would be rounding"):
            parity()


def test_a_section_of_the_gpu_script_that_does_not_end_is_given_up(gpu_script):
    with pytest.raises(gpu_script["CheckFailedError"], match=r"no answer after 0\.01 s"):
        gpu_script["Asker"](0.01, on_cpu=True).ask("facts")
