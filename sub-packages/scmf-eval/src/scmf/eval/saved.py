"""A checkpoint for use. In: a run directory, or a folder in it, and which weights. Out: a whole checkpoint and what
it says of itself. Imports neither torch nor Megatron, so that a wrong path is told at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.core.config_override import override
from scmf.core.config_read import Document, read_document
from scmf.core.errors import CheckpointError, ConfigError
from scmf.core.near_path import correction
from scmf.train.checkpoint import RECORD, CheckpointFolder, Progress, read_progress, verify
from scmf.train.config import CheckpointConfig, MainConfig, check_document

WEIGHTS = ("latest", "best", "ema")
"""Names of weights beside the number of a step."""
VOCABULARY_FILE = "vocabulary.parquet"
"""The vocabulary that a model was trained with, in every checkpoint."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose files have the bytes that were written."""

    folder: Path
    """The `step_*` folder."""
    config: MainConfig
    """Of the run, as it lies in the checkpoint, with what the caller has changed."""
    progress: Progress
    average: bool
    """Use the running average of the weights in the place of the weights."""

    def describe(self) -> str:
        """Which weights these are, for a person."""
        return f"{'averaged weights' if self.average else 'weights'} of step {self.progress.step:,}, {self.folder}"


def find_saved(run: Path, *, weights: str = "latest", changes: tuple[str, ...] = (), trust_code: bool = False) -> Saved:
    """The checkpoint that a path and a choice mean, checked against its record.

    Args:
        run: a run directory, its `checkpoints` folder, or one `step_*` folder.
        weights: latest, best (lowest validation loss of those kept), ema (running average of the latest), or a step.
        changes: `data.KEY=value` words for its config.
        trust_code: import classes that its config names by dotted path.

    Raises:
        CheckpointError: there is none such, it is damaged, or it has no average.
        ConfigError: `weights` or `changes` is nothing that can be asked for, or the config names code.
    """
    folder = find_folder(run, weights=weights)
    try:
        verify(folder)
        progress = read_progress(folder)
    except CheckpointError as error:
        raise CheckpointError(error.what, where=error.where, fix=_others(folder)) from error
    average = weights == "ema"
    if average and not progress.optimizer.get("ema"):
        raise CheckpointError(
            "the run has kept no running average of its weights (trainer.ema is null)",
            where=str(folder),
            fix="use --weights latest; a run with trainer.ema={decay: 0.999} keeps one",
        )
    document = override(read_document(folder / "config.yaml"), _of_data(changes))
    if not trust_code:
        _refuse_code(document)
    return Saved(folder, _with_own_vocabulary(check_document(document), folder), progress, average)


def find_folder(run: Path, *, weights: str = "latest") -> Path:
    """The `step_*` folder that a path and a choice mean; its files are not looked at.

    Raises:
        CheckpointError: there is none such.
        ConfigError: `weights` is nothing that can be asked for.
    """
    if weights not in WEIGHTS and not weights.isdecimal():
        raise ConfigError(
            f"--weights {weights} is neither {', '.join(WEIGHTS)} nor the number of a step",
            where="command line",
            fix="--weights latest; or --weights 100 for the checkpoint of step 100",
        )
    if not run.exists():
        raise CheckpointError("there is no such run or checkpoint", where=str(run), fix=correction(run))
    if (run / RECORD).is_file():
        return _only(run.resolve(), weights)
    for inner in (run / "checkpoints", run):
        folder = CheckpointFolder(inner, CheckpointConfig())
        if folder.complete():
            return _choose(folder, weights)
    raise CheckpointError(
        "there is no complete checkpoint", where=str(run), fix="name a run directory of scmf-train, or a step_* folder"
    )


def _only(folder: Path, weights: str) -> Path:
    """One checkpoint was named: there is nothing to choose among."""
    if weights in ("latest", "ema") or (weights.isdecimal() and folder.name == f"step_{int(weights):08d}"):
        return folder
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    raise ConfigError(
        f"--weights {weights} chooses among checkpoints, and --run names one of them",
        where=str(folder),
        fix=f"--run {shlex.quote(str(run))} --weights {weights}",
    )


def _choose(folder: CheckpointFolder, weights: str) -> Path:
    if weights in ("latest", "ema"):
        return folder.complete()[-1].resolve()
    if weights == "best":
        return _best(folder)
    chosen = folder.named(int(weights))
    if chosen not in folder.complete():
        raise CheckpointError(
            f"no checkpoint of step {int(weights):,} is kept", where=str(folder.path), fix=_kept(folder.complete())
        )
    return chosen.resolve()


def _best(folder: CheckpointFolder) -> Path:
    """The lowest validation loss among the checkpoints that are kept, of the loss that the newest one goes by."""
    found = [(progress, path) for path in folder.complete() if (progress := _progress_of(path)) is not None]
    metric = found[-1][0].val_metric if found else None
    rated = [(p.val_loss, path) for p, path in found if p.val_loss is not None and p.val_metric == metric]
    if not rated:
        raise CheckpointError(
            "no checkpoint has a validation loss, so none is the best",
            where=str(folder.path),
            fix="--weights latest; trainer.validate.every has to divide trainer.checkpoint.every for a best one",
        )
    return min(rated)[1].resolve()


def _progress_of(folder: Path) -> Progress | None:
    """What a checkpoint says of itself; None for a damaged record, which is told where that checkpoint is asked for."""
    try:
        return read_progress(folder)
    except CheckpointError:
        return None


def _others(damaged: Path) -> str:
    whole = [path for path in CheckpointFolder(damaged.parent, CheckpointConfig()).complete() if path != damaged]
    return _kept(whole) if whole else "restore the folder from a copy; there is no other checkpoint beside it"


def _kept(folders: list[Path]) -> str:
    steps = ", ".join(str(int(path.name.removeprefix("step_"))) for path in folders)
    return f"--weights N, where N is one of the steps that are kept: {steps}"


def _with_own_vocabulary(config: MainConfig, folder: Path) -> MainConfig:
    """The config with the vocabulary of the checkpoint, where it names one: a file may have gone elsewhere."""
    tokenizer = config.data.tokenizer
    if not hasattr(tokenizer, "vocabulary"):
        return config
    own = tokenizer.replace(vocabulary=str(folder / VOCABULARY_FILE))
    return config.replace(data=config.data.replace(tokenizer=own))


def _of_data(changes: tuple[str, ...]) -> tuple[str, ...]:
    """The changes, all of the `data` section and none of what the model takes its tokens for.

    Raises:
        ConfigError: one would change a model that is trained.
    """
    for change in changes:
        if not change.startswith("data.") or change.startswith("data.tokenizer"):
            raise ConfigError(
                f"{change} would change a model that is trained",
                where="command line",
                fix="only keys of the data section but the tokenizer can be changed here, such as data.store=PATH",
            )
    return changes


def _refuse_code(document: Document) -> None:
    """Loading a checkpoint executes nothing: a class that its config names is imported only where that is asked for.

    Raises:
        ConfigError: it names one.
    """
    for place, kind in _named_code(document.values):
        raise ConfigError(
            f"the checkpoint's config names code: {place}: {kind}",
            where=document.source,
            fix="if you trust whoever wrote it, add --trust-code; the class has to be importable here",
        )


def _named_code(values: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every `kind` that is a dotted path, with its key."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        here = f"{place}.{key}".lstrip(".")
        if key == "kind" and isinstance(value, str) and "." in value:
            yield here, value
        yield from _named_code(value, here)
