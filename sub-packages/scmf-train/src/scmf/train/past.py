"""A past that did not happen. In: a run's folder and the step that it goes on from. Out: what came later is cut off."""

from __future__ import annotations

from collections.abc import Iterator

from scmf.train.checkpoint import CheckpointFolder
from scmf.train.metrics import cut_after
from scmf.train.run_directory import RunDirectory


def drop_what_followed(directory: RunDirectory, checkpoints: CheckpointFolder, *, step: int) -> Iterator[str]:
    """Drop the lines of later steps; with later checkpoints, both are set aside.

    Args:
        directory: of the run; of the first rank alone.
        checkpoints: of the run.
        step: that the run goes on from.

    Yields:
        What was done, a line each for a person.
    """
    later = checkpoints.set_aside_after(step)
    removed = cut_records(directory, step=step, keep=bool(later))
    if removed:
        fate = "set aside with their checkpoints" if later else "dropped: they come again"
        yield f"{removed} lines of metrics.jsonl after step {step:,} are {fate}"
    for path in later:
        yield f"a checkpoint of a later step was set aside as {path.name}"


def cut_records(directory: RunDirectory, *, step: int, keep: bool) -> int:
    """Cut the files that have one line an event after a step.

    Args:
        directory: of the run.
        step: last one whose lines stay.
        keep: set aside what is cut.

    Returns:
        Lines of metrics.jsonl that were cut.
    """
    aside = directory.abandoned
    cut_after(directory.cells, step, keep=aside(directory.cells) if keep else None)
    return cut_after(directory.metrics, step, keep=aside(directory.metrics) if keep else None)
