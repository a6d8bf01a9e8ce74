"""`MainConfig`: the one file that drives a run, in three sections; a path goes in, a checked config comes out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from scmf.core.config import Config, Variant
from scmf.core.config_fault import Fault
from scmf.core.config_kind import Kinds
from scmf.core.config_override import override
from scmf.core.config_read import Document, read_document
from scmf.data.config import CellsConfig, DataConfig, SequencesConfig
from scmf.model.config import DecoderConfig, EncoderConfig, ModelConfig
from scmf.train.rules import section_faults
from scmf.train.trainer_config import CheckpointConfig, EmaConfig, ParallelConfig, TrainerConfig

__all__ = [
    "CheckpointConfig",
    "EmaConfig",
    "MainConfig",
    "ParallelConfig",
    "TrainerConfig",
    "check_document",
    "load_config",
    "with_steps",
]


class MainConfig(Config):
    """One run: data in, model, trainer."""

    data: Annotated[DataConfig, Kinds({"cells": CellsConfig, "sequences": SequencesConfig})]
    """Which cells, as which tokens, in which batches."""
    model: Annotated[ModelConfig, Kinds({"encoder": EncoderConfig, "decoder": DecoderConfig})]
    """Sizes of the network and its task."""
    trainer: TrainerConfig
    """Length, layout, precision, optimizer, and what is kept."""

    def faults(self) -> Iterator[Fault]:
        """The rules between sections: scmf.train.rules."""
        yield from super().faults()
        yield from section_faults(self)


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    data_cls: type[Variant] | str | None = None,
    model_cls: type[Variant] | str | None = None,
) -> MainConfig:
    """Read, override and check the file that drives a run.

    Args:
        path: YAML or JSON, by suffix.
        overrides: `dotted.key=value` words.
        data_cls: class of the `data` section, or its kind or dotted path; wins over the file's `kind`.
        model_cls: the same for the `model` section.

    Raises:
        ConfigError: with every fault of the file, its key, its line and the way out.
    """
    document = override(read_document(path), overrides)
    for section, cls, flag in (("data", data_cls, "--data-config-cls"), ("model", model_cls, "--model-config-cls")):
        if cls is not None:
            kind = cls if isinstance(cls, str) else cls.kind_name()
            document = override(document, [f'{section}.kind="{kind}"'])
            document.origins[section, "kind"] = f"{flag} {kind}"
    return check_document(document)


def check_document(document: Document) -> MainConfig:
    """Check a document that was read or built; ConfigError with every fault."""
    return MainConfig.parse(document.values, source=document.source, origins=document.origins)


def with_steps(config: MainConfig, n_train: int) -> MainConfig:
    """The config with `max_epochs` converted to `max_steps`; unchanged where steps were given.

    Args:
        config: as read.
        n_train: cells of the training split, > 0.
    """
    epochs = config.trainer.max_epochs
    if epochs is None:
        return config
    steps = max(1, math.ceil(epochs * n_train / config.data.global_batch_size))
    changes: dict[str, Any] = {"max_steps": steps, "max_epochs": None}
    return config.replace(trainer=config.trainer.replace(**changes))
