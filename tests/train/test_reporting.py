"""What a run tells: metrics.jsonl and its cutting, TensorBoard, console lines and the bar."""

from __future__ import annotations

import json
import math
import sys

import pytest

from scmf.core.errors import MachineError
from scmf.train.console import Console, describe_seconds
from scmf.train.metrics import Metrics, MetricsFile, TensorBoardMirror, cut_after


def test_every_line_is_json_and_numbers_that_json_lacks_are_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Metrics(MetricsFile(path)) as metrics:
        metrics.write(1, {"train/loss": 2.5, "train/grad_norm": math.nan, "val/perplexity": math.inf})
        metrics.write(2, {"train/loss": 2.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "train/loss": 2.5, "train/grad_norm": None, "val/perplexity": None},
        {"step": 2, "train/loss": 2.0},
    ]


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = MetricsFile(path)
    sink.write(1, {"train/loss": 2.5})
    assert path.read_text().endswith("\n")
    sink.close()


@pytest.mark.parametrize(("step", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_lines_of_later_steps_are_cut(tmp_path, step, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s}) + "\n" for s in (1, 2, 3)) + '{"step": 4, "train/lo')
    assert cut_after(path, step) == 4 - len(kept)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == kept


def test_there_is_nothing_to_cut_in_a_file_that_is_not_there(tmp_path):
    assert cut_after(tmp_path / "metrics.jsonl", 3) == 0
    assert not list(tmp_path.iterdir())


def test_tensorboard_has_the_numbers_of_metrics_jsonl(tmp_path):
    mirror = TensorBoardMirror(tmp_path, first_step=1)
    mirror.write(3, {"train/loss": 2.5})
    mirror.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (point,) = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert (point.step, point.value) == (3, 2.5)


def test_a_missing_tensorboard_names_the_extra_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MachineError) as refused:
        TensorBoardMirror(tmp_path, first_step=1)
    assert "pip install tensorboard" in refused.value.fix


def test_lines_go_to_the_screen_and_with_a_time_to_the_log(tmp_path, capsys):
    with Console(tmp_path / "log.txt", total=10) as console:
        console.say("step 1/10  [loss] 5.000")
    assert capsys.readouterr().out == "step 1/10  [loss] 5.000\n"
    assert (tmp_path / "log.txt").read_text().endswith(" step 1/10  [loss] 5.000\n")


def test_other_ranks_are_silent(capsys):
    with Console(None, total=10) as console:
        console.say("a line")
        console.at(3, "a note")
    assert capsys.readouterr().out == ""


def test_the_bar_shows_the_step_and_keeps_its_note(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then treats the captured output as a terminal
    monkeypatch.setenv("NO_COLOR", "1")
    with Console(tmp_path / "log.txt", total=10, bar=True) as console:
        console.at(3, "loss 5.000")
        console.at(4)
        console.say("a line")
    assert "4/10 loss 5.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (150, "2 min"), (7_300, "2 h"), (200_000, "2 d")]
)
def test_what_is_left_is_told_to_one_unit(seconds, text):
    assert describe_seconds(seconds) == text
