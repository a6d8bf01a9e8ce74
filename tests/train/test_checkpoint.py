"""The checkpoints of a run: what is kept, what is found, and what is refused."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from scmf.core.errors import CheckpointError
from scmf.train import checkpoint
from scmf.train.checkpoint import CheckpointFolder, Progress, find_path, read_progress, verify
from scmf.train.config import CheckpointConfig
from scmf.train.faults import Tally
from scmf.train.identity import other_versions
from scmf.train.saver import Saver
from scmf.train.world import TIMEOUT
from support.alone import alone

PROGRESS = Progress(
    step=1,
    max_steps=10,
    cells_seen=8,
    seed=42,
    val_loss=None,
    data={},
    model={},
    global_batch_size=8,
    layout={"world": 1},
    versions={"torch": "2"},
)


@pytest.fixture
def folder(tmp_path):
    alone()
    return CheckpointFolder(tmp_path / "checkpoints", CheckpointConfig(every=1, keep_best=1, keep_last=2))


UNHURT = Tally()


def save(folder, step, val_loss=None, content=b"weights", faults=UNHURT):
    aside = folder.aside(step)
    folder.open_aside(aside)
    (aside / "shard").write_bytes(content)
    progress = replace(PROGRESS, step=step, val_loss=val_loss, faults=faults)
    folder.close_aside(aside, progress, {"config.yaml": b"data: 1\n"})
    return folder.named(step)


def stage(content=b"weights"):
    """What an engine's `stage` returns, with one small shard."""
    return lambda: lambda path, _group: (path / "shard").write_bytes(content)


def names(folder):
    return [path.name for path in folder.complete()]


def test_the_newest_and_the_best_are_kept_and_linked(folder):
    for step, loss in enumerate([5.0, 3.0, 4.0, 4.5, 4.4], start=1):
        save(folder, step, loss)
    assert names(folder) == ["step_00000002", "step_00000004", "step_00000005"]
    assert (folder.path / "best").resolve().name == "step_00000002"
    assert (folder.path / "last").resolve().name == "step_00000005"


def test_without_validation_only_the_newest_are_kept(folder):
    for step in range(1, 5):
        save(folder, step)
    assert names(folder) == ["step_00000003", "step_00000004"]
    assert not (folder.path / "best").exists()


def test_a_record_reads_back_as_it_was_written(folder):
    path = save(folder, 7, 2.5)
    assert read_progress(path) == replace(PROGRESS, step=7, val_loss=2.5)
    verify(path)


@pytest.mark.parametrize("background", [True, False])
def test_a_save_that_fails_leaves_the_earlier_ones_and_nothing_of_itself(folder, background):
    saver = Saver(folder, background=background, timeout=TIMEOUT)
    saver.save(replace(PROGRESS, step=1), stage=stage(), files={})
    assert saver.wait().fault is None

    def full(path, group):
        (path / "shard").write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path / "shard"))

    saver.save(replace(PROGRESS, step=2), stage=lambda: full, files={})
    report = saver.wait()
    assert "No space left" in str(report)
    assert (report.step, report.fault.rank, saver.saved_step) == (2, 0, 1)
    assert sorted(path.name for path in folder.path.iterdir()) == ["last", "step_00000001"]
    saver.save(replace(PROGRESS, step=3), stage=stage(), files={})
    assert saver.wait().fault is None
    assert names(folder) == ["step_00000001", "step_00000003"]


def test_a_save_under_way_does_not_hold_up_the_run_and_is_the_only_one(folder):
    saver, gate = Saver(folder, background=True, timeout=TIMEOUT), threading.Event()

    def slow(path, group):
        if not gate.wait(timeout=60):
            raise TimeoutError
        (path / "shard").write_bytes(b"weights")

    saver.save(replace(PROGRESS, step=1), stage=lambda: slow, files={})
    assert saver.finished() is None
    assert names(folder) == []
    with pytest.raises(RuntimeError, match="under way"):
        saver.save(replace(PROGRESS, step=2), stage=stage(), files={})
    gate.set()
    report = saver.wait()
    assert report.bytes == 7
    assert names(folder) == ["step_00000001"]
    assert saver.wait() is None


def test_an_error_of_our_own_in_the_writing_thread_is_raised_in_the_run(folder):
    saver = Saver(folder, background=True, timeout=TIMEOUT)

    def broken(path, group):
        raise ZeroDivisionError

    saver.save(PROGRESS, stage=lambda: broken, files={})
    with pytest.raises(ZeroDivisionError):
        saver.wait()


def test_the_newest_whole_checkpoint_is_found_behind_damaged_ones(folder):
    for step in (1, 2, 3):
        save(CheckpointFolder(folder.path, CheckpointConfig(keep_last=9)), step)
    (folder.named(3) / "shard").write_bytes(b"weightz")
    (folder.named(2) / checkpoint.RECORD).write_text("{")
    whole, faults = folder.newest_whole()
    assert whole == folder.named(1)
    assert [str(folder.named(n)) in fault.where for n, fault in zip((3, 2), faults, strict=True)] == [True, True]


def test_a_checkpoint_saved_while_steps_were_left_out_is_not_good(folder):
    save(folder, 1)
    save(folder, 2)
    folder.amend(folder.named(2), replace(PROGRESS, step=2, faults=Tally(bad_in_a_row=1, skipped_steps=1)))
    assert folder.newest_whole()[0] == folder.named(2)
    assert folder.newest_whole(good=True)[0] == folder.named(1)


def test_the_last_good_checkpoint_outlives_those_saved_while_steps_were_left_out(folder):
    save(folder, 1)
    for step in (2, 3, 4):
        save(folder, step, faults=Tally(bad_in_a_row=step - 1, skipped_steps=step - 1))
    assert names(folder) == ["step_00000001", "step_00000003", "step_00000004"]
    assert folder.newest_whole(good=True)[0] == folder.named(1)


def test_a_record_is_amended_without_touching_the_files(folder):
    path = save(folder, 1)
    tally = Tally(skipped_steps=3).after_rollback(8, 32)
    folder.amend(path, checkpoint.moved(read_progress(path), cells_seen=32, faults=tally))
    verify(path)
    assert read_progress(path) == replace(PROGRESS, cells_seen=32, faults=tally)


def test_a_damaged_record_does_not_stop_a_later_save(folder):
    for step in (1, 2):
        save(folder, step, 1.0)
    (folder.named(1) / checkpoint.RECORD).write_text("{")
    save(folder, 3, 2.0)
    assert (folder.path / "best").resolve().name == "step_00000002"


def test_what_a_killed_save_left_does_not_count_and_is_removed(folder):
    save(folder, 1)
    left = folder.path / ".writing-step_00000002"
    left.mkdir()
    (left / "shard").write_bytes(b"half")
    (folder.path / "step_00000003").mkdir()  # renamed by hand, without a record
    assert names(folder) == ["step_00000001"]
    folder.remove_unfinished()
    assert not left.exists()


def test_a_step_that_is_saved_again_replaces_the_old_one(folder):
    save(folder, 1, content=b"old")
    assert (save(folder, 1, content=b"new") / "shard").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda p: p.write_bytes(b"weightz"), "does not have the bytes", id="one byte changed"),
        pytest.param(lambda p: p.write_bytes(b"weigh"), "does not have the bytes", id="cut"),
        pytest.param(lambda p: p.unlink(), "is missing", id="missing"),
    ],
)
def test_a_damaged_checkpoint_names_the_file_and_the_way_out(folder, damage, says):
    path = save(folder, 1)
    damage(path / "shard")
    with pytest.raises(CheckpointError, match=f"shard {says}") as refused:
        verify(path)
    assert "--resume" in refused.value.fix


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', '{"format": "scmf-checkpoint-1"}'])
def test_a_record_that_is_not_one_is_refused(folder, text):
    path = save(folder, 1)
    (path / checkpoint.RECORD).write_text(text)
    with pytest.raises(CheckpointError, match="record cannot be read"):
        read_progress(path)


def test_resume_finds_the_newest_a_named_one_and_a_run_directory(folder, tmp_path):
    assert folder.newest_whole() == (None, [])
    one, two = save(folder, 1), save(folder, 2)
    assert folder.newest_whole() == (two, [])
    assert find_path(str(one), folder) == one.resolve()
    assert find_path(str(tmp_path), folder) == two.resolve()
    with pytest.raises(CheckpointError, match="no such folder"):
        find_path(str(tmp_path / "elsewhere"), folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        find_path(str(tmp_path / "empty"), folder)


def test_later_checkpoints_are_set_aside_not_lost_when_an_older_one_is_resumed(folder):
    for _ in range(2):
        for step in (1, 2):
            save(folder, step)
        folder.set_aside_after(1)
    assert names(folder) == ["step_00000001"]
    aside = sorted(path.name for path in folder.path.glob("abandoned_*"))
    assert aside == ["abandoned_step_00000002", "abandoned_step_00000002.2"]
    for path in folder.path.glob("abandoned_*"):
        verify(path)


def test_the_record_is_plain_json_that_other_tools_can_read(folder):
    record = json.loads((save(folder, 3) / checkpoint.RECORD).read_text())
    assert record["progress"]["step"] == 3
    assert set(record["files"]) == {"shard", "config.yaml"}


def test_a_checkpoint_without_a_finite_validation_loss_is_never_the_best(folder):
    for step, loss in enumerate([None, 3.0, None, 2.5, 5.0], start=1):
        save(folder, step, loss)
    assert (folder.path / "best").resolve().name == "step_00000004"


def test_no_link_points_at_nothing(tmp_path):
    alone()
    folder = CheckpointFolder(tmp_path / "checkpoints", CheckpointConfig(every=1, keep_best=0, keep_last=1))
    for step, loss in enumerate([1.0, 2.0, 3.0], start=1):
        save(folder, step, loss)
    assert not (folder.path / "best").is_symlink()
    folder.set_aside_after(0)
    assert not (folder.path / "last").is_symlink()
    assert folder.newest() is None


def test_a_run_directory_gives_its_newest_checkpoint_even_without_links(folder, tmp_path):
    two = [save(folder, step) for step in (1, 2)][1]
    (folder.path / "last").unlink()
    assert find_path(str(tmp_path), folder) == two.resolve()


def test_a_record_with_an_unknown_key_is_refused_not_a_traceback(folder):
    path = save(folder, 1)
    record = json.loads((path / checkpoint.RECORD).read_text())
    record["progress"] |= {"colour": "red", "versions": {"scmf-train": "99.0"}}
    (path / checkpoint.RECORD).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"record cannot be read: .*colour.*scmf-train 99\.0 has written it"):
        read_progress(path)


def test_a_resume_under_other_versions_is_told(folder):
    there = read_progress(save(folder, 1))
    assert other_versions(there, there) is None
    here = replace(there, versions={"torch": "3.0"})
    told = other_versions(here, replace(there, versions={"torch": "2.9", "numba": "0.61"}))
    assert "it was torch 2.9 and is 3.0, numba 0.61 and is absent" in told
