"""Several objectives at once on real cells: the same in every layout, each loss weighted by itself."""

from __future__ import annotations

import math

import anndata
import numpy as np
import pytest

from scmf.core.config_read import read_document
from scmf.data.ingest.convert import convert
from scmf.data.ingest.plan import ConvertOptions
from scmf.train.config import check_document
from scmf.train.losses import Objective, Objectives
from support.objectives import LINE, THREE, resume_with, train_numbers, weights_after_loading
from support.ranks import run_ranks

STEPS = 3
TENSOR = ("trainer.parallel.tensor=2", "trainer.parallel.sequence=true")
PIPELINE = ("trainer.parallel.pipeline=2",)
SINGLE = f"model.task={LINE}"


@pytest.fixture(scope="module")
def store(demo_h5ad, tmp_path_factory):
    """The demo cells; two in three have a `line`, so that ranks and microbatches differ in their labelled cells."""
    folder = tmp_path_factory.mktemp("labelled")
    cells = anndata.read_h5ad(demo_h5ad)
    cells.obs["line"] = cells.obs["cell_line"].astype(object).where(np.arange(cells.n_obs) % 3 != 1, None)
    cells.write_h5ad(folder / "cells.h5ad")
    convert([folder / "cells.h5ad"], folder / "store", ConvertOptions(), log=lambda _: None)
    return folder / "store"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def one(store, shards):
    """One process, twice three steps with a save in between: what every layout has to meet."""
    return run_ranks(train_numbers, 1, store, STEPS, (THREE,), None, shards)[0]


def furthest(run, reference):
    """Largest difference of two runs' numbers, relative to those above 1."""
    assert [list(numbers) for numbers in run] == [list(numbers) for numbers in reference]
    pairs = [(a[key], b[key]) for a, b in zip(run, reference, strict=True) for key in b if key != "val/perplexity"]
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("data.microbatch_tokens=128",), id="DP2, more microbatches"),
        pytest.param(TENSOR, id="TP2xSP"),
        pytest.param((*PIPELINE, "trainer.parallel.interleave=2"), id="PP2x2"),
        pytest.param(("trainer.parallel.fsdp=true",), id="FSDP2"),
    ],
)
def test_every_number_of_every_objective_is_that_of_one_process(overrides, one, store):
    here, there = run_ranks(train_numbers, 2, store, STEPS, (THREE, *overrides))
    assert here == there
    assert here[1:] == one[1:]
    assert furthest(here[0], one[0][: STEPS + 1]) < 1e-4


def test_parameters_are_those_of_the_formula(one):
    assert one[1] == one[2]


def test_the_loss_is_the_weighted_sum_of_the_means(one):
    for prefix, numbers in [*(("train", n) for n in one[0][:STEPS]), ("val", one[0][-1])]:
        mlm, line, depth = (numbers[f"{prefix}/{name}/loss"] for name in ("mlm", "line", "depth"))
        assert numbers[f"{prefix}/loss"] == pytest.approx(mlm + 0.5 * line + 0.2 * depth, rel=1e-12)
        assert numbers[f"{prefix}/perplexity"] == pytest.approx(math.exp(mlm))


def test_a_run_goes_on_from_shards_of_one_process_in_another_layout(one, shards, store):
    here, there = run_ranks(train_numbers, 2, store, STEPS, (THREE, *PIPELINE), shards)
    assert here == there
    assert furthest(here[0], one[0][STEPS + 1 :]) < 1e-4


@pytest.mark.parametrize(
    ("several", "alone"),
    [
        pytest.param(
            f"model.task={{kind: several, tasks: {{mlm: {{kind: mlm}}, line: {LINE}}}, weights: {{line: 0}}}}",
            "model.task={kind: mlm}",
            id="mlm 1, line 0",
        ),
        pytest.param(
            f"model.task={{kind: several, tasks: {{classify: {LINE}}}, weights: {{classify: 1}}}}",
            SINGLE,  # the name of an objective is part of the seed of its head
            id="line alone",
        ),
    ],
)
def test_weights_of_one_and_zero_give_the_single_objective(several, alone, store):
    def curve(task):
        ((numbers, *_),) = run_ranks(train_numbers, 1, store, STEPS, (task,))
        return [step[key] for step in numbers[:-1] for key in ("train/loss", "norm")]

    # The norm too: Adam would hide a gradient that is too large or too small altogether.
    assert curve(several) == pytest.approx(curve(alone), rel=1e-4)


def test_a_classifier_learns_an_easy_column_and_keeps_it_on_held_out_cells(store):
    small = ("model.layers=2", "data.tokenizer.seq_length=64", "data.global_batch_size=16")
    short = ("trainer.max_steps=16", "trainer.schedule.warmup_steps=2", "trainer.optimizer.lr=3e-3")
    ((numbers, *_),) = run_ranks(
        train_numbers, 1, store, 16, ("model.task={kind: classify, column: batch}", *small, *short)
    )
    accuracies = [step["train/classify/accuracy"] for step in numbers[:-1]]
    assert sum(accuracies[-4:]) / 4 > 0.9 > sum(accuracies[:4]) / 4 + 0.2
    assert numbers[-1]["val/classify/accuracy"] > 0.8
    assert "train/perplexity" not in numbers[0]


def test_weights_of_a_checkpoint_without_the_head_leave_it_as_it_was_drawn(store, shards, one):
    words = ("model.task={kind: classify, column: batch}",)
    ((before, after),) = run_ranks(weights_after_loading, 1, store, shards, words)
    head = {name for name in before if name.startswith("cell_heads.")}
    assert head == {"cell_heads.classify.dense.weight", "cell_heads.classify.dense.bias", "cell_heads.classify.weight"}
    assert {name for name in before if before[name] == after[name]} == head


def test_a_resume_refuses_other_classes_another_column_and_another_pool(store, tmp_path):
    changed = [
        ("model.task.classes=[H2228, H1975, HCC827]",),
        ("model.task.column=cell_line",),
        ("model.task.pool=first",),
        (),
    ]
    ((begun, *said),) = run_ranks(resume_with, 1, store, tmp_path / "run", (SINGLE,), changed)
    assert begun == ""
    assert "labels of classify" in said[1]
    assert "column cell_line" in said[1]
    assert all("head classify" in what for what in (said[0], said[2]))
    assert said[3] == ""
    written = check_document(read_document(tmp_path / "run" / "config.yaml")).model.task
    assert written.classes == ("H1975", "H2228", "HCC827")


def test_accuracy_and_r2_are_those_of_their_definitions():
    truth, guess = np.random.default_rng(1).normal(size=(2, 50))
    each = (Objective("line", "classes", 2.0), Objective("depth", "numbers"))
    sums = [12.0, 8.0, 6.0, ((guess - truth) ** 2).sum(), 50.0, truth.sum(), (truth**2).sum(), 999.0]
    found = Objectives(each, weighted=True).read(sums)
    numbers = found.numbers("val")
    assert numbers["val/line/accuracy"] == 0.75
    assert numbers["val/depth/r2"] == pytest.approx(1 - ((guess - truth) ** 2).mean() / truth.var())
    assert numbers["val/loss"] == pytest.approx(2 * 1.5 + ((guess - truth) ** 2).mean())
    assert found.tokens == 999
    assert (found + found).numbers("val") == pytest.approx(numbers)


def test_an_objective_without_targets_in_a_step_adds_nothing_and_is_not_a_number():
    each = (Objective("mlm"), Objective("line", "classes"))
    found = Objectives(each, weighted=True).read([30.0, 10.0, 0.0, 0.0, 0.0, 100.0])
    assert found.mean == 3.0
    assert math.isnan(found.numbers("train")["train/line/loss"])
    assert math.isnan(Objectives(each, weighted=True).nothing().mean)
