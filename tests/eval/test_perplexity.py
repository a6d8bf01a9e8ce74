"""Loss over whole splits: the trainer's own validation loss where it looked at the same tokens."""

from __future__ import annotations

import json
import math

import pytest

from scmf.core.errors import ConfigError
from scmf.eval.cli_eval import measure_of
from scmf.eval.perplexity import SplitLoss
from scmf.eval.saved import Saved
from scmf.train.losses import perplexity as exp_of
from support.command import lines, run, succeed, three_lines
from support.real import real_config, write_config


def perplexity(*arguments):
    return json.loads(succeed("scmf-eval", "perplexity", "--json", "--run", *arguments))


def test_the_loss_of_held_out_cells_is_the_one_that_the_trainer_measured(cell_run):
    measured = lines(cell_run / "metrics.jsonl")[-1]
    found = perplexity(cell_run)
    assert found["nats"] == measured["val/loss"]
    assert found["perplexity"] == pytest.approx(math.exp(found["nats"]))
    assert found["bits"] == pytest.approx(found["nats"] / math.log(2))
    assert (found["measure"], found["cells"], found["step"], found["precision"]) == (
        "pseudo-perplexity",
        21,
        12,
        "fp32",
    )
    assert 0.1 < found["targets"] / found["tokens"] < 0.2


def test_the_loss_of_the_average_is_the_one_that_the_trainer_measured(cell_run):
    measured = lines(cell_run / "metrics.jsonl")[-1]
    found = perplexity(cell_run, "--weights", "ema")
    assert found["nats"] == measured["val/ema_loss"] != measured["val/loss"]
    assert found["weights"] == "average"


def test_every_cell_of_a_split_is_counted_once(cell_run):
    cells = {split: perplexity(cell_run, "--split", split)["cells"] for split in ("train", "test")}
    assert cells == {"train": 168, "test": 21}


def test_another_precision_is_computed_in_when_it_is_asked_for(cell_run):
    found, measured = perplexity(cell_run, "--precision", "bf16"), lines(cell_run / "metrics.jsonl")[-1]["val/loss"]
    assert found["precision"] == "bf16"
    assert 0 < abs(found["nats"] - measured) < 0.05


def test_of_several_objectives_the_one_about_tokens_is_measured(demo_store, tmp_path):
    label = f"{{kind: classify, column: {demo_store.manifest.obs_columns[0]}}}"
    wanted = (
        "trainer.max_steps=2",
        "trainer.schedule.warmup_steps=0",
        "trainer.checkpoint.every=2",
        "trainer.validate={every: 2, batches: 100}",
        f"model.task={{kind: several, tasks: {{it: {label}, mlm: {{kind: mlm}}}}}}",
    )
    config = real_config(demo_store.path, tmp_path / "run", *wanted)
    succeed("scmf-train", "--config", write_config(config, tmp_path / "cfg.yaml"))
    found, measured = perplexity(tmp_path / "run"), lines(tmp_path / "run" / "metrics.jsonl")[-1]
    assert found["nats"] == measured["val/mlm/loss"] != measured["val/loss"]
    assert found["measure"] == "pseudo-perplexity"


def test_a_model_that_predicts_no_tokens_has_no_perplexity(demo_store, tmp_path):
    config = real_config(demo_store.path, tmp_path, "model.task={kind: classify, column: it}")
    with pytest.raises(ConfigError, match="the model's task is classify, and perplexity is of models that predict"):
        measure_of(Saved(tmp_path, config, None, average=False))


def test_several_processes_are_refused(cell_run):
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    what, _, fix = three_lines(run("scmf-eval", "perplexity", "--run", cell_run, **launched))
    assert what == "2 processes were started, and this command computes in one"
    assert "without torchrun" in fix


def test_a_split_with_nothing_in_it_is_refused_with_those_that_may_have_something(cell_run):
    result = run("scmf-eval", "perplexity", "--run", cell_run, "--split", "test", "data.split.test=0")
    what, _, fix = three_lines(result)
    assert what == "the test split has nothing in it"
    assert "--split validation" in fix


def test_other_data_are_told_where_they_were_asked_for(cell_run):
    out = succeed("scmf-eval", "perplexity", "--run", cell_run, "data.split.validation=0.2")
    assert "note     split is not as it was in training" in out


def test_a_store_that_has_gone_elsewhere_can_be_named(cell_run, tmp_path):
    result = run("scmf-eval", "perplexity", "--run", cell_run, f"data.store={tmp_path / 'gone'}")
    what, _, fix = three_lines(result)
    assert what == "there is no such store"
    assert "data.store=PATH" in fix


def test_a_masked_model_is_refused_with_what_measures_it(cell_run):
    what, _, fix = three_lines(run("scmf-predict", "generate", "--run", cell_run, "--prompt", "x"))
    assert "task is mlm" in what
    assert fix.startswith("scmf-eval perplexity --run ")


def test_numbers_that_are_not_finite_are_null_as_json_has_it():
    assert math.isnan(exp_of(math.nan))
    assert exp_of(800.0) == math.inf
    loss = SplitLoss("test", math.nan, math.nan, exp_of(math.nan), targets=3, tokens=4, cells=1, noun="cell")
    found = json.loads(json.dumps(loss.numbers(), allow_nan=False))
    assert [found[key] for key in ("nats", "bits", "perplexity", "targets")] == [None, None, None, 3]
