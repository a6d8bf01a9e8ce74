"""Going back where steps fail in a row. In: a run's checkpoints, where it failed. Out: the one to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scmf.core.errors import TrainingError
from scmf.train import checkpoint
from scmf.train.checkpoint import CheckpointFolder, Progress
from scmf.train.faults import Tally
from scmf.train.metrics import Metrics, cut_after
from scmf.train.run_directory import RunDirectory, writing


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a run stands when steps have failed in a row."""

    step: int
    cells_seen: int
    """Data position behind what went wrong."""
    tally: Tally


def give_way(
    checkpoints: CheckpointFolder, directory: RunDirectory, metrics: Metrics, here: Failure
) -> tuple[Path, Progress]:
    """Set aside what is undone, and write where the run goes on; on the first rank.

    The checkpoint's record is given the new data position, so that a run that is cut here and resumed goes on in the
    same way.

    Returns:
        The last good checkpoint, and its record with the new data position.

    Raises:
        TrainingError: there is no checkpoint to go back to, or the disk is full.
    """
    folder, faults = checkpoints.newest_whole(good=True)
    if folder is None:
        raise TrainingError(
            f"loss or gradient was not finite {here.tally.bad_in_a_row} steps in a row, and there is no good "
            f"checkpoint to go back to{f' ({faults[0].what})' if faults else ''}",
            where=f"step {here.step}",
            fix="begin again with a lower trainer.optimizer.lr or a longer warm-up, or save more often: "
            "trainer.checkpoint.every",
        )
    before = checkpoint.read_progress(folder)
    tally = here.tally.after_rollback(before.cells_seen, here.cells_seen)
    with writing(directory.path):
        metrics.rewind(before.step, directory.undone(tally.rollbacks, "metrics.jsonl"))
        cut_after(directory.cells, before.step, keep=directory.undone(tally.rollbacks, "cells.jsonl"))
        checkpoints.set_aside_after(before.step)
        progress = checkpoint.moved(before, cells_seen=here.cells_seen, faults=tally)
        checkpoints.amend(folder, progress)
    return folder, progress
