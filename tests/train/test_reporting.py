"""What a run tells: metrics.jsonl and its cutting, TensorBoard, console lines and the bar."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import warnings
from pathlib import Path

import pytest

from scmf.core.errors import MachineError, TrainingError
from scmf.train.agreement import RankFault
from scmf.train.console import Console, describe_seconds
from scmf.train.interval import step_line
from scmf.train.metric_names import ALIASES, canonical
from scmf.train.metrics import Metrics, MetricsFile, TensorBoardMirror, cut_after
from scmf.train.validation_config import EarlyStopConfig


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


def test_a_line_of_held_out_cells_has_the_accuracy_of_their_labels():
    numbers = {"val/loss": 0.9772, "val/line/accuracy": 0.625, "train/line/accuracy": 0.5}
    parts = step_line(4, 40, numbers, batch=16, noun="cell")
    assert parts == ["step 4/40", "val loss 0.977", "val line accuracy 62.5%"]


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


LEVELS = {0: {"0"}, 1: {"0", "1"}, 2: {"0", "1", "2"}}


@pytest.mark.parametrize("verbosity", LEVELS)
def test_the_screen_has_the_lines_up_to_the_verbosity_with_every_warning_and_the_log_has_all(
    tmp_path, capsys, verbosity
):
    with Console(tmp_path / "log.txt", total=10, verbosity=verbosity) as console:
        for level in (0, 1, 2):
            console.say(str(level), level=level)
        console.say(None)
        console.warn("the disk is slow")
    assert set(capsys.readouterr().out.splitlines()) == LEVELS[verbosity] | {"WARNING the disk is slow"}
    said = [line.split(" ", 2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert said == ["0", "1", "2", "WARNING the disk is slow"]


def test_a_quiet_console_has_no_bar(tmp_path, capsys):
    with Console(tmp_path / "log.txt", total=10, bar=True, verbosity=0) as console:
        console.at(3, "loss 5.000")
    assert capsys.readouterr().out == ""


def test_warnings_library_messages_and_threads_that_fail_are_said_and_logged(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = warnings.showwarning, threading.excepthook
        with Console(tmp_path / "log.txt", total=10):
            warnings.warn("a deprecated thing", FutureWarning, stacklevel=1)
            logging.getLogger("some.library").warning("%d things are odd", 3)
            logging.getLogger("some.library").info("nothing of note")
            thread = threading.Thread(target=lambda: 1 / 0, name="a-worker")
            thread.start()
            thread.join()
        assert (warnings.showwarning, threading.excepthook) == before
    logging.getLogger("some.library").warning("after the run")
    printed = capsys.readouterr()
    log = (tmp_path / "log.txt").read_text()
    for text in (
        "FutureWarning: a deprecated thing (",
        "some.library: 3 things are odd",
        "a-worker has failed: ZeroDiv",
    ):
        assert f"WARNING {text}" in printed.out
        assert f"WARNING {text}" in log
    assert "nothing of note" not in log
    assert "after the run" not in log
    assert "Traceback" not in printed.err


def ended_by(error, log):
    """The last words of the log of a run that an error ends."""
    console = Console(log, total=10).__enter__()
    console.__exit__(type(error), error, None)
    return log.read_text()


def test_what_ends_a_run_is_the_last_thing_in_its_log(tmp_path):
    fault = TrainingError("no room", where="here", fix="make room")
    other_rank = SystemExit(1)
    other_rank.__cause__ = RankFault(3, fault).error
    for error in (fault, other_rank):
        said = ended_by(error, tmp_path / "log.txt").splitlines()[-3:]
        assert said[0].endswith(" ERROR no room")
        assert said[1:] == ["  where: here", "  fix:   make room"]
    assert ended_by(KeyboardInterrupt(), tmp_path / "log.txt").endswith("ERROR the run was ended: KeyboardInterrupt\n")
    assert "ZeroDivisionError: by zero" in ended_by(ZeroDivisionError("by zero"), tmp_path / "log.txt")


def test_a_log_that_cannot_be_written_is_told_once_and_the_lines_go_on_on_the_screen(capsys):
    with Console(Path("/dev/full"), total=10) as console:
        console.say("first")
        console.say("second")
    assert capsys.readouterr().out.splitlines() == [
        "WARNING No space left on device while writing /dev/full: the lines that follow are on the screen alone",
        "first",
        "second",
    ]


class Mirror:
    """A mirror that fails at a step."""

    def __init__(self, *, fails_at):
        self.steps, self.closed, self._fails_at = [], 0, fails_at

    def write(self, step, numbers):
        if step == self._fails_at:
            raise ConnectionResetError(f"the service is gone\nwith {len(numbers)} numbers")
        self.steps.append(step)

    def rewind(self, step, keep):
        pass

    def close(self):
        self.closed += 1


def test_a_mirror_that_fails_is_told_once_closed_and_left_out_while_the_record_and_the_others_go_on(tmp_path):
    said, bad, good = [], Mirror(fails_at=2), Mirror(fails_at=None)
    with Metrics(MetricsFile(tmp_path / "metrics.jsonl"), {"Bad": bad, "Good": good}, said.append) as metrics:
        for step in (1, 2, 3):
            metrics.write(step, {"train/loss": 1.0})
    assert (bad.steps, bad.closed, good.steps, good.closed) == ([1], 1, [1, 2, 3], 1)
    assert said == ["Bad has failed (ConnectionResetError: the service is gone): metrics go on without it"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("alias", ["val_loss", "eval_loss", "val/loss"])
def test_a_metric_may_be_named_as_other_trainers_name_it(alias):
    assert EarlyStopConfig.parse({"metric": alias, "patience": 1}, source="a file").metric == "val/loss"


def test_every_alias_names_one_metric_of_ours_and_no_alias_is_one():
    assert set(map(canonical, ALIASES)) == set(ALIASES.values())
    assert not set(ALIASES) & set(ALIASES.values())
    assert all(name.count("/") == 1 for name in ALIASES.values())
    assert canonical("my/own") == "my/own"
    assert canonical(3) == 3
