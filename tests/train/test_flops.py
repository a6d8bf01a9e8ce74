"""FLOPs by formula, and the scripts that report them."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_gpu_script_compares_both_kinds_of_models(gpu_script, kind):
    config = gpu_script["Case"]("10m", "fp32", "packed").config(*gpu_script["SMALL"], *gpu_script["KINDS"][kind])
    assert config.model.kind == kind
    assert config.model.positions == {"encoder": "learned", "decoder": "rotary"}[kind]
