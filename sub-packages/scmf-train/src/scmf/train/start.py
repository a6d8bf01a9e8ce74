"""Where a run begins. In: a trainer, `--resume`, `model.init_from`. Out: the trainer at its first step."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scmf.core.errors import CheckpointError
from scmf.train.checkpoint import RECORD, CheckpointFolder, find_path, read_progress, verify
from scmf.train.console import Console
from scmf.train.identity import new_heads, refuse_another_run, refuse_other_weights
from scmf.train.run_directory import RunDirectory
from scmf.train.trainer import Trainer


@dataclass(frozen=True)
class Start:
    """Where a run begins; found on the first rank, the same for all."""

    resumed: Path | None
    """Checkpoint to go on from."""
    weights: Path | None
    """Checkpoint whose weights a new run begins with."""
    again: bool
    """A resume was asked for, and there is nothing to resume yet."""
    passed_over: tuple[CheckpointError, ...] = ()
    """What is wrong with newer checkpoints, which are not resumed."""
    owner: str = ""
    """Who has the run directory, as its lock says."""

    def check_visible(self, directory: RunDirectory) -> None:
        """Every rank reads the checkpoint and writes into the run directory, so every rank has to see them.

        Raises:
            ConfigError: this rank does not see the run directory.
            CheckpointError: this rank does not see the checkpoint.
        """
        directory.refuse_another(self.owner)
        for folder in (self.resumed, self.weights):
            if folder is not None and not (folder / RECORD).is_file():
                raise CheckpointError(
                    "this rank does not see the checkpoint that the first rank found",
                    where=str(folder),
                    fix="put it on a file system that all nodes share",
                )

    def take(self, trainer: Trainer, console: Console) -> None:
        """Bring a trainer to this start; collective."""
        for fault in self.passed_over:
            console.warn(f"{fault.where} is damaged ({fault.what}): going back to the one before")
        if self.resumed is not None:
            trainer.resume(self.resumed, console)
            return
        if self.again:
            console.say("nothing to resume yet: this run begins at step 0")
            trainer.begin_again()
        if self.weights is not None:
            trainer.engine.load_weights(self.weights)
            anew = new_heads(trainer.progress(), read_progress(self.weights))
            console.say(f"weights from {self.weights}" + (f"; drawn anew: {', '.join(anew)}" if anew else ""))


def claim(trainer: Trainer, stack: ExitStack, *, resume: str | None, by_epochs: bool) -> Start:
    """Lock the run directory and decide where to begin; on the first rank, before anything in it is changed.

    Args:
        trainer: at step 0.
        stack: holds the lock.
        resume: None, "auto" or a path.
        by_epochs: the length was given in epochs.

    Raises:
        ConfigError: the folder holds a run, or another process uses it.
        CheckpointError: nothing where `resume` or `model.init_from` points, damage, or another run.
    """
    directory, checkpoints = trainer.directory, trainer.checkpoints
    if resume is None:
        directory.refuse_to_overwrite()
    owner = stack.enter_context(directory.locked())
    resumed, passed_over = _find_whole(resume, checkpoints) if resume else (None, [])
    if resumed is not None:
        if resumed.parent != checkpoints.path.resolve() and resumed.parent != checkpoints.path:
            directory.refuse_to_overwrite()
        refuse_another_run(trainer.progress(), read_progress(resumed), resumed, by_epochs=by_epochs)
    weights = check_weights(trainer) if resumed is None else None
    again = resume is not None and resumed is None
    return Start(resumed=resumed, weights=weights, again=again, passed_over=tuple(passed_over), owner=owner)


def _find_whole(resume: str, checkpoints: CheckpointFolder) -> tuple[Path | None, list[CheckpointError]]:
    """What `--resume` means, and what is wrong with newer ones: only `auto` may pass over a damaged checkpoint.

    Raises:
        CheckpointError: nothing at the path, damage there, or all checkpoints are damaged.
    """
    if resume != "auto":
        named = find_path(resume, checkpoints)
        verify(named)
        return named, []
    whole, faults = checkpoints.newest_whole()
    if whole is None and faults:
        raise faults[0]
    return whole, faults


def check_weights(trainer: Trainer) -> Path | None:
    """The checkpoint that `model.init_from` names, whole and fitting; None where it names none.

    Raises:
        CheckpointError: it is not there, damaged, or of another model or vocabulary.
    """
    source = trainer.config.model.init_from
    if source is None:
        return None
    weights = find_path(source, trainer.checkpoints)
    verify(weights)
    refuse_other_weights(trainer.progress(), read_progress(weights), weights)
    return weights
