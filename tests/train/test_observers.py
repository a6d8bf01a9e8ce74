"""Code of the user's own beside a run: what it is told and when, what it may answer, and what its faults do."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from scmf.core.errors import ConfigError
from scmf.data.edit.named import name_split
from scmf.data.store import CellStore
from scmf.train.checkpoint import CheckpointFolder, read_progress
from scmf.train.config import CheckpointConfig
from scmf.train.observer import EndEvent, Observer, StepEvent, Stop
from scmf.train.observer_config import ObserverConfig
from scmf.train.observers import METHODS, Observers, find_classes, make_observers
from support.command import curve, lines
from support.faulty import Outcome, fit

HERE = "support.watching"
WORDS = (
    "data.split.name=lines",
    "data.curriculum={by: length, start: 0.2, steps: 8}",
    "trainer.max_steps=10",
    "trainer.log.every=4",
    "trainer.validate={every: 4, batches: 1, splits: [{name: far, part: test}, {name: near, split: lines}]}",
    "trainer.checkpoint.metric=val/far/loss",
)


@pytest.fixture(scope="module")
def store(demo_store, tmp_path_factory):
    """The demo cells, of which one line trains."""
    folder = tmp_path_factory.mktemp("observed") / "store"
    shutil.copytree(demo_store.path, folder)
    train, near, far = (f"cell_line={name}" for name in ("H1975", "H2228", "HCC827"))
    name_split(CellStore.open(folder), "lines", train=[train], validation=[near], test=[far])
    return folder


@pytest.fixture(scope="module")
def observed(store, tmp_path_factory):
    """A run of ten steps on two ranks that is observed in three ways, one of which fails and is only reported."""
    directory = tmp_path_factory.mktemp("observed") / "run"
    breaks = f"{{observer: {HERE}.Breaks, settings: {{method: on_step}}, on_error: report}}"
    watching = f"trainer.observers=[{HERE}.Diary, {HERE}.Perplexities, {breaks}]"
    assert fit(store, directory, *WORDS, watching) == [Outcome(0), Outcome(0)]
    return directory


def test_observers_are_told_in_the_documented_order_on_the_ranks_that_they_ask_for(observed):
    told = lines(observed / "observed.0.jsonl")
    order = [(event["method"], event["step"]) for event in told if event["method"] != "on_checkpoint"]
    steps = [("on_step", step) for step in range(1, 11)]
    for after, (index, step) in enumerate(((4, 4), (8, 8), (10, 10))):
        steps.insert(index + after, ("on_validation", step))
    assert order == [*steps, ("on_end", 10)]
    saved = [event for event in told if event["method"] == "on_checkpoint"]
    assert [(event["saved_step"], event["path"]) for event in saved] == [
        (4, "step_00000004"),
        (8, "step_00000008"),
        (10, "step_00000010"),
    ]
    assert all(event["bytes"] > 0 and event["step"] >= event["saved_step"] for event in saved)
    assert told[-1]["reason"] == "max_steps"
    assert [event["logged"] for event in told if event["method"] == "on_step"] == [
        step in (4, 8, 10) for step in range(1, 11)
    ]
    # The other rank has an observer of its own, and is told the same numbers.
    there = [event for event in lines(observed / "observed.1.jsonl") if event["method"] == "on_step"]
    assert [(e["step"], e["loss"], e["cells_seen"]) for e in there] == [
        (e["step"], e["loss"], e["cells_seen"]) for e in told if e["method"] == "on_step"
    ]


def test_what_observers_answer_is_written_as_user_metrics(observed):
    written = {line["step"]: line for line in lines(observed / "metrics.jsonl") if "train/loss" in line}
    told = lines(observed / "observed.0.jsonl")
    at = {event["step"]: event for event in told if event["method"] == "on_step"}
    for step in (4, 8, 10):
        assert written[step]["user/cells_per_token"] == pytest.approx(at[step]["cells"] / at[step]["tokens"])
        assert written[step]["user/bits"] == pytest.approx(written[step]["val/loss"] / np.log(2))
        assert written[step]["train/loss"] == at[step]["loss"]
    assert lines(observed / "metrics.jsonl")[-1] == {"step": 10, "user/saves": 10, "user/ended": 1}


def test_every_named_split_has_its_losses_and_one_of_them_says_which_checkpoint_is_best(observed):
    measured = [line for line in lines(observed / "metrics.jsonl") if "val/loss" in line]
    assert [line["step"] for line in measured] == [4, 8, 10]
    for line in measured:
        # `near` is the run's own validation set by another name, `far` is another line.
        assert line["val/near/loss"] == line["val/loss"] != line["val/far/loss"] > 0
        assert line["val/far/perplexity"] == pytest.approx(np.exp(line["val/far/loss"]))
    best = min(measured, key=lambda line: line["val/far/loss"])["step"]
    record = read_progress(observed / "checkpoints" / "best")
    assert (record.step, record.val_metric) == (best, "val/far/loss")
    assert record.val_loss == min(line["val/far/loss"] for line in measured)


def test_a_loss_of_another_metric_is_not_compared(observed, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(observed / "checkpoints", folder, symlinks=True)
    checkpoints = CheckpointFolder(folder, CheckpointConfig(metric="val/loss"))
    assert checkpoints.set_aside_after(9) != []  # points the links again
    assert not (folder / "best").exists()
    assert (folder / "last").resolve().name == "step_00000008"


def test_the_bound_of_a_curriculum_is_a_metric(observed):
    share = [line["curriculum/share"] for line in lines(observed / "metrics.jsonl") if "curriculum/share" in line]
    assert share[0] == pytest.approx(0.6, abs=0.05)
    assert share[1:] == [pytest.approx(1.0, abs=0.02), 1.0]


def test_a_failure_that_is_only_reported_is_told_at_the_first_and_the_tenth_time(observed):
    log = (observed / "log.txt").read_text()
    sentence = f"observer {HERE}.Breaks failed in on_step at step {{}}: ValueError: no more"
    assert [log.count(sentence.format(step)) for step in (1, 2, 9, 10)] == [1, 0, 0, 1]
    assert "(10 times so far)" in log


def test_an_observer_may_end_the_run_which_saves_and_goes_on_later_as_if_it_had_not_stopped(store, observed, tmp_path):
    directory = tmp_path / "run"
    stops = f"trainer.observers=[{{observer: {HERE}.StopAt, settings: {{step: 3}}}}]"
    assert fit(store, directory, *WORDS, stops) == [Outcome(0), Outcome(0)]
    (start,) = json.loads((directory / "run.json").read_text())["starts"]
    assert start["ended"] == {"reason": "observer", "step": 3, "why": "the budget is spent", "best": None}
    assert "an observer has ended the run at step 3: the budget is spent" in (directory / "log.txt").read_text()
    assert read_progress(directory / "checkpoints" / "last").step == 3
    assert lines(directory / "metrics.jsonl") == [{"step": 3, "user/spent": 1}]
    # On one rank, without the observer: the cells and the losses of the run that was never stopped.
    assert fit(store, directory, *WORDS, ranks=1, resume="auto") == [Outcome(0)]
    assert [line["cell_ids"] for line in lines(directory / "cells.jsonl")] == [
        line["cell_ids"] for line in lines(observed / "cells.jsonl")
    ]
    keys = ("train/loss", "val/far/loss", "curriculum/share", "curriculum/bound")
    whole = [line for line in curve(observed) if "train/loss" in line]
    for here, there in zip(curve(directory)[1:], whole, strict=True):
        assert [here[key] for key in keys] == pytest.approx([there[key] for key in keys], rel=1e-5)


def test_an_exception_stops_all_ranks_with_its_place_and_a_checkpoint(store, tmp_path):
    directory = tmp_path / "run"
    breaks = f"trainer.observers=[{{observer: {HERE}.Breaks, settings: {{method: on_validation, step: 4}}}}]"
    first, second = fit(store, directory, *WORDS, breaks)
    assert first.what == f"observer {HERE}.Breaks failed in on_validation at step 4: ValueError: no more"
    assert "watching.py, line " in first.where
    assert "--resume auto" in first.fix
    assert second == Outcome(1)
    assert read_progress(directory / "checkpoints" / "last").step == 4


EVENT = {"step": 7, "max_steps": 9, "cells_seen": 1, "epoch": 0.1, "directory": Path(), "rank": 0}


def end_event():
    """The last event of a run."""
    return EndEvent(**EVENT, reason="max_steps")


def observers_of(*entries, rank=0, warned=None):
    """Observers made of entries; what they warn of goes into a list."""
    found = tuple(ObserverConfig(**{"observer": f"{HERE}.Answers", **entry}) for entry in entries)
    warn = (lambda _: None) if warned is None else warned.append
    return make_observers(found, find_classes(found), rank=rank, warn=warn)


def test_events_cannot_be_changed_and_a_derived_observer_has_the_methods_that_it_does_not_write():
    with pytest.raises(dataclasses.FrozenInstanceError):
        end_event().reason = "signal"

    class Derived(Observer):
        """Has nothing of its own."""

    assert [getattr(Derived(), method)(end_event()) for method in METHODS] == [None] * 4


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        pytest.param(None, {}, id="nothing"),
        pytest.param({}, {}, id="no numbers"),
        pytest.param({"a": 1, "b": np.float32(0.5)}, {"user/a": 1.0, "user/b": 0.5}, id="numbers"),
        pytest.param({"t": torch.tensor(2.0), "n": np.array([3])}, {"user/t": 2.0, "user/n": 3.0}, id="one element"),
        pytest.param(Stop("enough", {"c": 2}), {"user/c": 2.0}, id="stop"),
    ],
)
def test_answers_are_numbers_or_a_wish_to_end(answer, numbers):
    observers = observers_of({"settings": {"answer": answer}})
    observers.tell("on_step", end_event)
    assert observers.fault is None
    assert observers.stop == ("enough" if isinstance(answer, Stop) else None)
    assert observers.take_numbers() == numbers
    assert observers.take_numbers() == {}


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        pytest.param("stop", "the answer is a str; it may be None, a dict of numbers, or a Stop", id="text"),
        pytest.param({"a": "1"}, "a is str, not a number", id="text for a number"),
        pytest.param({"a": True}, "a is bool, not a number", id="truth"),
        pytest.param({1: 1.0}, "1 is no name of a number", id="name"),
        pytest.param({"a": np.zeros(3)}, "can only convert an array of size 1", id="array"),
    ],
)
def test_an_answer_that_is_none_is_a_failure_of_the_method_that_gave_it(answer, sentence):
    observers = observers_of({"settings": {"answer": answer}})
    observers.tell("on_step", end_event)
    assert sentence in observers.fault.what
    assert "watching.py, line " in observers.fault.where
    observers.tell("on_step", lambda: pytest.fail("nobody is told any more"))


def test_an_observer_that_exits_is_a_failure_and_no_silent_end():
    observers = observers_of({"observer": f"{HERE}.Exits"})
    observers.tell("on_step", end_event)
    assert "failed in on_step" in observers.fault.what
    assert observers.fault.what.endswith("SystemExit: 0")


def test_two_observers_cannot_give_the_same_number_and_one_can_give_it_anew():
    twice = {"settings": {"answer": {"a": 1}}}
    alone = observers_of(twice)
    for _ in range(2):
        alone.tell("on_step", end_event)
    assert alone.fault is None
    both = observers_of(twice, twice)
    both.tell("on_step", end_event)
    assert f"user/a has been given by observer {HERE}.Answers already" in both.fault.what


def test_an_observer_lives_on_the_first_rank_unless_it_asks_for_all():
    entries = ({"settings": {"answer": {"a": 1}}}, {"observer": f"{HERE}.Diary", "settings": {"name": "x"}})
    assert len(observers_of(*entries)._watchers) == 2
    assert len(observers_of(*entries, rank=3)._watchers) == 1
    assert Observers().take_numbers() == {}


@pytest.mark.parametrize(
    ("entry", "sentence", "fix"),
    [
        ({"observer": "gone.Mine"}, "gone.Mine: there is no module gone", "PYTHONPATH"),
        ({"observer": f"{HERE}.Gone"}, f"module {HERE} has no Gone", "Diary, Perplexities, StopAt"),
        ({"observer": f"{HERE}.json"}, "says something else than a class by the name of json", "Diary"),
        ({"observer": f"{HERE}.Misspelt"}, "has a method on_stpe, which nothing calls", "did you mean on_step?"),
        ({"observer": f"{HERE}.Silent"}, "has none of the methods of an observer", "docs/observers.md"),
        ({"settings": {"answr": 1}}, "cannot be made with these settings", "its settings may be: answer"),
        ({"observer": f"{HERE}.Unmakeable"}, "cannot be made: RuntimeError: no licence", "mend the class"),
    ],
    ids=lambda value: value.get("observer", "settings").rpartition(".")[2] if isinstance(value, dict) else "",
)
def test_an_observer_that_cannot_be_is_refused_before_the_first_step(entry, sentence, fix):
    with pytest.raises(ConfigError) as refused:
        observers_of(entry)
    assert sentence in refused.value.what
    assert fix in refused.value.fix
    assert "trainer.observers[0]" in refused.value.where
    assert len(str(refused.value).splitlines()) == 3


def test_a_step_event_says_what_a_step_did():
    names = {field.name for field in dataclasses.fields(StepEvent)}
    assert {"step", "cells_seen", "loss", "grad_norm", "lr", "tokens", "seconds", "logged"} <= names
