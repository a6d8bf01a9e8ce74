"""Whether a checkpoint belongs to a run. In: two records. Out: nothing, or the first difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from scmf.core.errors import CheckpointError
from scmf.model.task import CellTask, ClassifyTask
from scmf.train.checkpoint import Progress
from scmf.train.config import MainConfig, TrainerConfig

FREE = frozenset({"init_from", "init_std", "hidden_dropout", "attention_dropout", "task"})
"""Keys of the model section that may change at a resume: they are no part of the weights' meaning. (The task's
corruption is part of the data's fingerprint.)"""


HEAD = "head "
"""Begins the keys of heads about whole cells, which a checkpoint has by the names of their objectives."""


def model_identity(config: MainConfig, precision: str) -> dict[str, Any]:
    """What of the model a resumed run must find unchanged, for the record."""
    model = config.model.model_dump(mode="json")
    kept = {key: value for key, value in model.items() if key not in FREE}
    heads = {
        f"{HEAD}{name}": _describe_head(task)
        for name, task in config.model.task.objectives.items()
        if isinstance(task, CellTask)
    }
    return {**kept, "seq_length": config.data.tokenizer.seq_length, "precision": precision, **heads}


def _describe_head(task: CellTask) -> str:
    """What the outputs of a head mean, and of what they are made."""
    if not isinstance(task, ClassifyTask):
        return f"{task.kind}, pool {task.pool}"
    names = task.classes or ()
    digest = xxhash.xxh3_64("\n".join(names).encode()).hexdigest()
    return f"{task.kind} {', '.join(names[:8])}{', ...' if len(names) > 8 else ''} ({digest}), pool {task.pool}"


def optimizer_identity(trainer: TrainerConfig) -> dict[str, str | bool]:
    """Which tensors the optimizer keeps, for the record; its rates may change at a resume."""
    return {**trainer.optimizer.state(), "ema": trainer.ema is not None}


def refuse_another_run(here: Progress, there: Progress, folder: Path, *, by_epochs: bool) -> None:
    """Compare what a run is with what a checkpoint says; the first difference is told.

    Args:
        here: of this run, at its start.
        there: of the checkpoint.
        folder: of the checkpoint.
        by_epochs: the length was given in epochs, so that the number of steps follows the batch size.

    Raises:
        CheckpointError: another seed, model, data, optimizer, or batch size under epochs.
    """
    pairs = [
        ("trainer.seed", here.seed, there.seed),
        *_pairs("model", here.model, there.model),
        *_pairs("data", here.data, there.data),
        *_pairs("trainer.optimizer", here.optimizer, there.optimizer),
    ]
    if by_epochs:
        pairs.append(("data.global_batch_size with max_epochs", here.global_batch_size, there.global_batch_size))
    fix = (
        f"set it back as in {folder / 'config.yaml'}; or start another run from these weights: no --resume, a new "
        f"trainer.result_dir, model.init_from={folder} (the sizes of the model have to stay)"
    )
    _refuse_difference(pairs, folder, fix)


def refuse_other_weights(here: Progress, there: Progress, folder: Path) -> None:
    """Compare sizes and vocabulary before weights are taken over; precision, dropout, data and seed may differ.

    Heads about whole cells are compared where both have one of the same name: others begin anew, or are left out.

    Raises:
        CheckpointError: another model or vocabulary.
    """
    other = {key for key in {**here.model, **there.model} if key.startswith(HEAD)} - (here.model.keys() & there.model)
    unequal = {f"model {key}" for key in ("precision", *other)}
    sizes = [pair for pair in _pairs("model", here.model, there.model) if pair[0] not in unequal]
    vocabulary = ("the vocabulary", here.data.get("vocabulary"), there.data.get("vocabulary"))
    fix = f"take the model section and data.tokenizer from {folder / 'config.yaml'}"
    _refuse_difference([*sizes, vocabulary], folder, fix)


def new_heads(here: Progress, there: Progress) -> list[str]:
    """Heads about whole cells that a run has and a checkpoint does not, in words."""
    return [key for key in here.model if key.startswith(HEAD) and key not in there.model]


def other_versions(here: Progress, there: Progress) -> str | None:
    """What a checkpoint was written with, in words, where this run has other versions: not bit for bit then."""
    names = [name for name in there.versions if here.versions.get(name) != there.versions[name]]
    pairs = ", ".join(f"{name} {there.versions[name]} and is {here.versions.get(name, 'absent')}" for name in names)
    return (
        f"the checkpoint was written with other versions: it was {pairs}; losses are equal to rounding"
        if pairs
        else None
    )


def _pairs(name: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    keys = [*here, *(key for key in there if key not in here)]
    return [(f"{name} {key}", here.get(key), there.get(key)) for key in keys]


def _refuse_difference(pairs: list[tuple[str, Any, Any]], folder: Path, fix: str) -> None:
    for name, here, there in pairs:
        if here != there:
            sides = _side(here, "this configuration"), _side(there, "the checkpoint")
            raise CheckpointError(f"{name} is {' and '.join(sides)}", where=str(folder), fix=fix)


def _side(value: object, place: str) -> str:
    return f"absent from {place}" if value is None else f"{value} in {place}"
