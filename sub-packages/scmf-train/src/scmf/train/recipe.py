"""A recipe: a table of settings with their sources and a few arguments go in, a `MainConfig` comes out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scmf.core.config_fault import Path
from scmf.core.config_override import override
from scmf.core.config_read import Document
from scmf.train.config import MainConfig, check_document


class Setting(NamedTuple):
    """One value of a recipe and where it comes from."""

    value: Any
    source: str
    """Paper, code, measurement or reason; shown by `scmf-recipe --describe`."""


Settings = dict[str, Setting]
"""Dotted key of the config to its setting."""


@dataclass(frozen=True, slots=True)
class RecipeArguments:
    """What a user says when asking for a recipe; None keeps the recipe's own."""

    store: str | None = None
    """Folder written by `scmf-store convert`."""
    result_dir: str | None = None
    """Run directory."""
    init_from: str | None = None
    """Checkpoint whose weights the run starts from."""
    overrides: tuple[str, ...] = ()
    """`dotted.key=value` words, applied last."""

    def words(self) -> list[str]:
        """The same as words of the `scmf-recipe` command."""
        flags = {"--data-path": self.store, "--result-dir": self.result_dir, "--init-from": self.init_from}
        given = [word for flag, value in flags.items() if value is not None for word in (flag, value)]
        return [*given, *self.overrides]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named run. Keys that it does not set have the default that the config documents."""

    name: str
    summary: str
    """One line: what it trains, and whose numbers these are."""
    settings: Settings
    aliases: tuple[str, ...] = field(default=())
    """Other spellings, such as BioNeMo's."""
    family: str = field(kw_only=True)
    """What kind of model: recipes of a family differ in size and length, not in data or task."""
    devices: str = field(kw_only=True)
    """What its numbers were chosen for, such as `8 GPUs`; the global batch alone decides the result."""

    def config(self, arguments: RecipeArguments | None = None) -> MainConfig:
        """Build the checked config.

        Args:
            arguments: paths and overrides of this run.

        Raises:
            ConfigError: when an override does not fit.
        """
        arguments = arguments or RecipeArguments()
        document = Document(nest({key: setting.value for key, setting in self.settings.items()}), f"recipe {self.name}")
        given = {
            ("data", "store"): arguments.store,
            ("model", "init_from"): arguments.init_from,
            ("trainer", "result_dir"): arguments.result_dir,
        }
        for (section, key), value in given.items():
            if value is not None:
                document.values[section][key] = value
        return check_document(override(document, arguments.overrides))

    def command(self, arguments: RecipeArguments | None = None) -> str:
        """The command that writes this config."""
        return shlex.join(["scmf-recipe", "--recipe", self.name, *(arguments or RecipeArguments()).words()])


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into sections."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        here = nested
        for section in sections:
            here = here.setdefault(section, {})
        here[last] = value
    return nested


def flatten(nested: Mapping[str, Any], prefix: Path = ()) -> dict[str, Any]:
    """Turn sections into dotted keys; the inverse of `nest`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, (*prefix, key))
        else:
            flat[".".join(str(part) for part in (*prefix, key))] = value
    return flat


def parameters(config: MainConfig) -> int | None:
    """Trained numbers of the model by formula; None where the vocabulary or the model is the user's own."""
    from scmf.model.config import BackboneConfig

    size = config.data.tokenizer.vocabulary_size
    if size is None or not isinstance(config.model, BackboneConfig):
        return None
    return config.model.n_parameters(size, config.data.tokenizer.seq_length)


def run_line(config: MainConfig, dest: str, *, folder: str | None = None) -> str:
    """The command that runs a written config on the machines that it asks for.

    Args:
        config: as written.
        dest: the file's name.
        folder: where Python finds the classes that the config names; None where they are installed.
    """
    command = ["scmf-train", "--config", dest]
    if config.trainer.nodes > 1:
        ranks = "GPUS_A_NODE" if config.trainer.devices == "auto" else config.trainer.devices
        step = [f"--nodes={config.trainer.nodes}", f"--ntasks-per-node={ranks}", f"--gpus-per-node={ranks}"]
        command = ["srun", *step, *command, "--resume", "auto"]
    return (f"PYTHONPATH={shlex.quote(folder)} " if folder else "") + shlex.join(command)


def header(
    recipe: Recipe, *, version: str, arguments: RecipeArguments | None = None, run: str | None = None
) -> Sequence[str]:
    """Comment at the top of a written recipe: what it is, what made it, what runs it.

    Args:
        recipe: whose config is written.
        version: of scmf.
        arguments: that it was asked for with.
        run: the command that runs it, as `run_line` gives it; None for a file that has no name yet.
    """
    return (
        f"scmf {version}, recipe {recipe.name}: {recipe.summary}",
        f"written by:  {recipe.command(arguments)}",
        f"run it by:   {run or 'scmf-train --config THIS_FILE'}",
        f"where each number comes from:  {shlex.join(['scmf-recipe', '--describe', recipe.name])}",
    )
