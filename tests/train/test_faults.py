"""The ladder of faults: each is put into one of two ranks, and both decide together what becomes of the run."""

from __future__ import annotations

import json
import signal

import pytest

from scmf.core.errors import TrainingError
from scmf.train.checkpoint import CheckpointFolder, read_progress
from scmf.train.config import CheckpointConfig
from scmf.train.faults import FaultsConfig, Tally, must_roll_back, refuse_bad_cells
from scmf.train.signals import REQUEUE
from support.command import curve, lines
from support.faulty import Outcome, fit
from support.ranks import run_ranks
from support.spoilt import LOST, spoil
from support.tiny import save_apart

DONE = [Outcome(0), Outcome(0)]


@pytest.fixture(scope="module")
def store(demo_store):
    return demo_store.path


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    """The run that nothing happens to."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    assert fit(store, directory) == DONE
    return directory


def column(directory, key):
    return [line[key] for line in lines(directory / "metrics.jsonl")]


def cells(directory):
    return [line["cell_ids"] for line in lines(directory / "cells.jsonl")]


def log(directory):
    return (directory / "log.txt").read_text()


def test_a_nan_loss_and_an_infinite_gradient_of_one_rank_leave_out_the_step_on_all(store, undisturbed, tmp_path):
    directory = tmp_path / "run"
    assert fit(store, directory, loss={8: 1}, gradient={16: 0}) == DONE
    assert [i + 1 for i, norm in enumerate(column(directory, "train/grad_norm")) if norm is None] == [3, 5]
    assert column(directory, "train/loss")[2] is None
    assert column(directory, "train/loss")[3] is not None
    assert column(directory, "faults/skipped_steps") == [0, 0, 1, 1] + [2] * 8
    assert column(directory, "faults/rollbacks")[-1] == 0
    assert cells(directory) == cells(undisturbed)
    assert "step 3/12  loss nan  left out: not finite" in log(directory)


@pytest.fixture(scope="module")
def rolled_back(store, tmp_path_factory):
    """Steps 6, 7 and 8 are not finite on rank 1: the run goes back to step 4 and on behind them."""
    directory = tmp_path_factory.mktemp("rolled") / "run"
    assert fit(store, directory, loss={20: 1, 24: 1, 28: 1}) == DONE
    return directory


def test_three_in_a_row_go_back_to_the_last_good_checkpoint_and_past_the_data(rolled_back, undisturbed):
    assert column(rolled_back, "step") == list(range(1, 13))
    assert column(rolled_back, "cells_seen") == [4, 8, 12, 16, *range(36, 65, 4)]
    assert column(rolled_back, "faults/rollbacks") == [0] * 4 + [1] * 8
    assert cells(rolled_back)[:4] == cells(undisturbed)[:4]
    assert cells(rolled_back)[4:8] == cells(undisturbed)[8:12]
    undone = lines(rolled_back / "rolled_back_1.metrics.jsonl")
    assert [line["step"] for line in undone] == [5, 6, 7, 8]
    assert len(lines(rolled_back / "rolled_back_1.cells.jsonl")) == 4
    assert "rolled back from step 8 to step 4" in log(rolled_back)
    newest = CheckpointFolder(rolled_back / "checkpoints", CheckpointConfig()).newest()
    assert read_progress(newest).faults == Tally(skipped_steps=3, skipped_cells=((16, 32),))


def test_a_run_asked_to_end_while_steps_are_left_out_and_resumed_equals_the_run_not_stopped(
    rolled_back, store, tmp_path
):
    directory, wrong = tmp_path / "run", {20: 1, 24: 1, 28: 1}
    stopped = fit(store, directory, loss=wrong, signals={24: (0, signal.SIGTERM)})
    assert stopped == [Outcome(REQUEUE), Outcome(REQUEUE)]
    assert fit(store, directory, resume="auto", loss=wrong) == DONE
    assert curve(directory) == curve(rolled_back)
    assert cells(directory) == cells(rolled_back)


def test_a_rollback_is_kept_by_a_run_that_ends_before_its_next_save(rolled_back, store, tmp_path):
    directory, wrong = tmp_path / "run", {20: 1, 24: 1, 28: 1}
    first, second = fit(store, directory, loss=wrong, loader={40: 0})
    assert (first.what, second) == ("the disk is gone", Outcome(1))
    assert fit(store, directory, resume="auto") == DONE  # without the fault that led to it
    assert curve(directory) == curve(rolled_back)
    assert cells(directory) == cells(rolled_back)


def test_after_as_many_rollbacks_as_are_allowed_the_run_stops_with_one_report(store, tmp_path):
    wrong = dict.fromkeys(range(20, 400, 4), 0)
    first, second = fit(store, tmp_path / "run", "trainer.faults.rollbacks=2", loss=wrong)
    assert "not finite 3 steps in a row" in first.what
    assert "after 2 rollbacks past cells 16 to 32; cells 32 to 44 and 9 steps left out" in first.what
    assert "trainer.optimizer.lr" in first.fix
    assert second in (Outcome(1), first)
    assert column(tmp_path / "run", "step")[-1] == 7


def test_without_a_checkpoint_to_go_back_to_the_run_stops_and_says_so(store, tmp_path):
    (told,) = fit(store, tmp_path / "run", ranks=1, loss={0: 0, 4: 0, 8: 0})
    assert "there is no good checkpoint to go back to" in told.what


def test_a_batch_that_one_rank_cannot_read_stops_all_with_one_message_that_names_cells(store, tmp_path):
    first, second = fit(store, tmp_path / "run", loader={8: 1})
    assert first == Outcome(1)
    assert second.what == "the disk is gone"
    assert "the step at 8 cells seen, which has cells" in second.where


def test_held_out_cells_that_one_rank_cannot_read_stop_all_with_one_message(store, tmp_path):
    words = ["trainer.validate.every=2", "trainer.validate.batches=2"]
    first, second = fit(store, tmp_path / "run", *words, held_out={1: 1})
    assert first == Outcome(1)
    assert second.what == "the disk of held-out cells is gone"


def test_cells_that_cannot_be_read_are_replaced_counted_and_named_and_too_many_stop_the_run(demo_store, tmp_path):
    spoilt = spoil(demo_store, tmp_path / "store")
    words = ["data.global_batch_size=64", "trainer.max_steps=3", "trainer.checkpoint.every=3"]
    assert fit(spoilt, tmp_path / "run", *words) == DONE
    drawn = {cell for cell_ids in cells(tmp_path / "run") for cell in cell_ids}
    lost = column(tmp_path / "run", "faults/bad_cells")[-1]
    assert 1 <= lost <= len(LOST)
    assert not drawn & LOST
    assert log(tmp_path / "run").count("cannot be read") == lost
    (told,) = fit(spoilt, tmp_path / "stopped", *words, "trainer.faults.bad_cells=0", ranks=1)
    assert "cells could not be read and were replaced; trainer.faults.bad_cells allows 0" in told.what


def test_a_signal_to_one_rank_finishes_the_step_saves_and_ends_all_with_the_code_of_a_requeue(
    store, undisturbed, tmp_path
):
    directory = tmp_path / "run"
    assert fit(store, directory, signals={20: (1, signal.SIGUSR1)}) == [Outcome(REQUEUE), Outcome(REQUEUE)]
    assert (directory / "checkpoints" / "last").resolve().name == "step_00000006"
    assert "asked to end: saved at step 6, exit code 75" in log(directory)
    assert fit(store, directory, resume="auto") == DONE
    assert curve(directory) == curve(undisturbed)


def test_a_save_that_fails_on_one_rank_is_a_warning_and_the_next_one_is_tried(store, undisturbed, tmp_path):
    directory = tmp_path / "run"
    assert fit(store, directory, saves={8: 1}) == DONE
    assert "WARNING no checkpoint at step 8: the checkpoint could not be written" in log(directory)
    assert [path.name for path in sorted((directory / "checkpoints").glob("step_*"))] == [
        "step_00000004",
        "step_00000012",
    ]
    errors = [line["error"] for line in lines(directory / "saves.jsonl")]
    assert [error and error.split(";")[0] for error in errors] == [None, "the checkpoint could not be written", None]
    assert curve(directory) == curve(undisturbed)


def test_ranks_that_do_not_share_the_run_directory_are_refused_and_leave_nothing(store, tmp_path):
    first, second = fit(store, tmp_path / "run", apart=True)
    assert first == Outcome(1)
    assert "does not see the folder that the first rank has (process " in second.what
    assert second.where == str(tmp_path / "another")
    assert list(tmp_path.iterdir()) == []


def test_nodes_with_different_stores_under_one_path_are_refused(store, tmp_path):
    first, second = fit(store, tmp_path / "run", other_store=1)
    assert first == Outcome(1)
    assert second.what.startswith("data store is another on this rank and ")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_with_shards_in_another_folder_is_none(tmp_path):
    for what in run_ranks(save_apart, 2, {"trainer__parallel__tensor": 2}, tmp_path):
        assert what == "1 of 2 shards are not in the first rank's folder, among them __1_0.distcp"


def test_too_many_failed_saves_in_a_row_stop_the_run_and_keep_the_last_whole_one(store, tmp_path):
    words = ["trainer.checkpoint.every=2", "trainer.faults.failed_saves=2"]
    told = fit(store, tmp_path / "run", *words, saves={4: 1, 6: 1, 8: 1, 10: 1, 12: 1})
    assert sorted(outcome.code for outcome in told) == [1, 1]
    (message,) = [outcome.what for outcome in told if outcome.what]
    assert "(2 saves in a row have failed)" in message
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")] == ["step_00000002"]


def test_a_last_save_that_fails_is_an_error_of_the_run(store, tmp_path):
    (told,) = fit(store, tmp_path / "run", ranks=1, saves={12: 0})
    assert told.code == 1
    assert told.what.startswith("the checkpoint could not be written;")


@pytest.mark.parametrize("bad", [1, 2, 3, 4])
def test_the_ladder_rolls_back_at_the_limit_and_stops_when_rollbacks_are_used_up(bad):
    config = FaultsConfig(bad_steps=3, rollbacks=1)
    tally = Tally(bad_in_a_row=bad, skipped_steps=bad)
    assert must_roll_back(tally, config, step=9, loss=float("nan")) == (bad >= 3)
    if bad >= 3:
        again = Tally(bad_in_a_row=bad, skipped_cells=((8, 64),))
        with pytest.raises(TrainingError, match="past cells 8 to 64"):
            must_roll_back(again, config, step=9, loss=float("nan"))


def test_a_good_step_forgets_the_bad_ones_in_a_row_and_not_their_number():
    tally = Tally().after_step(good=False).after_step(good=False).after_step(good=True)
    assert (tally.bad_in_a_row, tally.skipped_steps) == (0, 2)


def test_a_tally_reads_back_from_the_json_of_a_record():
    tally = Tally(bad_in_a_row=1, skipped_steps=4, skipped_cells=((8, 64), (70, 90)), bad_cells=2)
    written = {**{name: getattr(tally, name) for name in Tally.__slots__}}
    assert Tally.of(json.loads(json.dumps(written))) == tally


def test_too_many_unreadable_cells_stop_a_run():
    config = FaultsConfig(bad_cells=2)
    refuse_bad_cells(Tally(bad_cells=2), config, step=3)
    with pytest.raises(TrainingError, match="3 cells could not be read"):
        refuse_bad_cells(Tally(bad_cells=3), config, step=3)
