"""Loss over whole splits: the trainer's own validation loss where it looked at the same tokens."""

from __future__ import annotations

import json
import math

import pytest

from support.command import lines, run, succeed, three_lines


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
    cells = {split: perplexity(cell_run, "--split", split)["cells"] for split in ("train", "validation", "test")}
    assert cells == {"train": 168, "validation": 21, "test": 21}


def test_every_character_of_a_text_is_predicted_once_and_the_loss_is_the_trainers(text_run):
    found = {split: perplexity(text_run.folder, "--split", split) for split in ("train", "validation", "test")}
    assert sum(part["targets"] for part in found.values()) == len(text_run.text)
    assert all(part["targets"] == part["tokens"] for part in found.values())
    measured = lines(text_run.folder / "metrics.jsonl")[-1]
    assert found["validation"]["nats"] == measured["val/loss"]
    assert (found["validation"]["noun"], found["validation"]["measure"]) == ("window", "perplexity")
    assert found["test"]["targets"] == round(0.1 * len(text_run.text))


def test_a_person_reads_bits_a_character(text_run):
    out = succeed("scmf-eval", "perplexity", "--run", text_run.folder)
    assert "bits a character; perplexity" in out
    assert "each predicted from those before it in its window" in out


def test_a_split_with_nothing_in_it_is_refused_with_those_that_may_have_something(cell_run):
    result = run("scmf-eval", "perplexity", "--run", cell_run, "--split", "test", "data.split.test=0")
    what, _, fix = three_lines(result)
    assert what == "the test split has nothing in it"
    assert "--split validation" in fix


def test_other_data_are_told_where_they_were_asked_for(cell_run):
    assert perplexity(cell_run, "data.split.validation=0.2")["differences"] == ["split"]
    out = succeed("scmf-eval", "perplexity", "--run", cell_run, "data.split.validation=0.2")
    assert "note     split is not as it was in training" in out


def test_a_store_that_has_gone_elsewhere_can_be_named(cell_run, tmp_path):
    result = run("scmf-eval", "perplexity", "--run", cell_run, f"data.store={tmp_path / 'gone'}")
    what, _, fix = three_lines(result)
    assert what == "there is no such store"
    assert "data.store=PATH" in fix
