"""What `scmf-recipe` shows of recipes: recipes and configurations go in; tables, JSON and differences come out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from scmf.core.config import Config
from scmf.core.config_override import override
from scmf.core.config_read import read_document
from scmf.train.config import MainConfig, check_document
from scmf.train.recipe import Recipe, flatten, parameters
from scmf.train.recipe_named import recipe_named

_SUFFIXES = (".yaml", ".yml", ".json")
_NO_KEY = "no such key"


def list_recipes(recipes: Sequence[Recipe]) -> str:
    """A table of recipes: what kind, how large, for which devices, what for; and their other names."""
    rows = [("recipe", "family", "parameters", "devices", "tokens", "batch", "steps", "purpose")]
    for recipe in recipes:
        row = summary(recipe)
        size = f"{row['parameters'] / 1e6:.1f}M" if row["parameters"] is not None else "?"
        counts = (f"{row['tokens']:,}", f"{row['batch']:,}", f"{row['steps']:,}" if row["steps"] else "?")
        rows.append((recipe.name, recipe.family, size, recipe.devices, *counts, recipe.summary))
    names = [f"{recipe.name}: {', '.join(recipe.aliases)}" for recipe in recipes if recipe.aliases]
    notes = "\ntokens: the longest sequence; batch: sequences an optimizer step, over all devices\n"
    return (
        _table(rows, right=(2, 4, 5, 6)) + notes + "\nother names that are understood\n  " + "\n  ".join(names) + "\n"
    )


def list_json(recipes: Sequence[Recipe]) -> str:
    """The same for programs: a list of objects."""
    return _json([summary(recipe) for recipe in recipes])


def summary(recipe: Recipe) -> dict[str, Any]:
    """One recipe's line of the list; parameters and steps are null where only the data can tell."""
    config = recipe.config()
    return {
        "name": recipe.name,
        "family": recipe.family,
        "parameters": parameters(config),
        "devices": recipe.devices,
        "tokens": config.data.tokenizer.seq_length,
        "batch": config.data.global_batch_size,
        "steps": config.trainer.max_steps,
        "purpose": recipe.summary,
        "other_names": list(recipe.aliases),
    }


@dataclass(frozen=True, slots=True)
class Sourced:
    """A configuration in which every value knows where it comes from."""

    name: str
    summary: str
    values: dict[str, Any]
    """Dotted key to value, defaults included."""
    sources: dict[str, str]
    """Dotted key to paper, code, reason, or line of a file; no entry for defaults."""
    meanings: dict[str, str]
    """Dotted key to the first sentence of what the key means."""

    @classmethod
    def named(cls, text: str, *, flag: str) -> Self:
        """Of a recipe, or of a YAML or JSON file; ConfigError where there is neither, or it is not valid."""
        if not text.lower().endswith(_SUFFIXES):
            return cls.of_recipe(recipe_named(text, flag=flag))
        document = override(read_document(text), ())
        config = check_document(document)
        sources = {".".join(map(str, key)): f"{text}, {origin}" for key, origin in document.origins.items()}
        if not sources:  # JSON is read without the lines of its keys
            sources = dict.fromkeys(flatten(document.values), text)
        return cls.of_config(config, sources, name=text, summary=f"the file {Path(text).name}")

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Self:
        """With the recipe's own sources."""
        sources = {key: setting.source for key, setting in recipe.settings.items()}
        return cls.of_config(recipe.config(), sources, name=recipe.name, summary=recipe.summary)

    @classmethod
    def of_config(cls, config: MainConfig, sources: Mapping[str, str], *, name: str, summary: str) -> Self:
        """Of a checked config; `sources` may speak of keys that are sections."""
        values = flatten(config.model_dump(mode="json", by_alias=True))
        kept = {key: sources[key] for key in values if key in sources}
        return cls(name, summary, values, kept, dict(_meanings(config)))

    def source(self, key: str) -> str:
        """Where a value comes from, defaults included."""
        return self.sources.get(key) or ("the default" if key in self.values else "")

    def shown(self, key: str) -> str:
        """A value as JSON; what stands there instead of a value."""
        if key in self.values:
            return json.dumps(self.values[key], ensure_ascii=False)
        return "a section" if any(other.startswith(f"{key}.") for other in self.values) else _NO_KEY


def describe(sourced: Sourced) -> str:
    """Every number of a recipe with its source, then every default with its meaning."""
    given = [("key", "value", "source")]
    given += [(key, sourced.shown(key), source) for key, source in sorted(sourced.sources.items())]
    rest = [("key", "default", "meaning")]
    rest += [(k, sourced.shown(k), sourced.meanings.get(k, "")) for k in sourced.values if k not in sourced.sources]
    title = f"{sourced.name}: {sourced.summary}\n\n"
    return title + _table(given) + "\nevery other key has its default\n\n" + _table(rest)


def describe_json(sourced: Sourced) -> str:
    """The same for programs: dotted key to value, source (null for a default) and meaning."""
    entry = {
        key: {"value": value, "source": sourced.sources.get(key), "meaning": sourced.meanings.get(key, "")}
        for key, value in sourced.values.items()
    }
    return _json({"name": sourced.name, "purpose": sourced.summary, "keys": entry})


def differences(one: Sourced, other: Sourced) -> list[str]:
    """Dotted keys whose values differ, or that only one of the two has, in the order of the file."""
    keys = dict.fromkeys((*one.values, *other.values))
    return [key for key in keys if one.shown(key) != other.shown(key)]


def diff(one: Sourced, other: Sourced) -> str:
    """Only what differs: for each key both values with their sources."""
    keys = differences(one, other)
    if not keys:
        return f"{one.name} and {other.name} give the same configuration\n"
    same = len(one.values.keys() | other.values.keys()) - len(keys)
    lines = [f"{one.name}: {one.summary}", f"{other.name}: {other.summary}"]
    width = max(len(one.name), len(other.name))
    values = max(len(side.shown(key)) for side in (one, other) for key in keys)
    for key in keys:
        rows = [f"  {s.name:<{width}}  {s.shown(key):<{values}}  {s.source(key)}".rstrip() for s in (one, other)]
        lines += ["", key, *rows]
    differ = "1 key differs" if len(keys) == 1 else f"{len(keys)} keys differ"
    return "\n".join(lines) + f"\n\n{differ}, {same} are equal\n"


def diff_json(one: Sourced, other: Sourced) -> str:
    """The same for programs; a key that a side does not have has no entry there."""

    def side(sourced: Sourced, key: str) -> dict[str, Any] | None:
        return {"value": sourced.values[key], "source": sourced.source(key)} if key in sourced.values else None

    keys = {key: [side(one, key), side(other, key)] for key in differences(one, other)}
    return _json({"names": [one.name, other.name], "keys": keys})


def _meanings(config: Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and description of every field, sections opened."""
    for name, field in type(config).model_fields.items():
        key, value = f"{prefix}{field.alias or name}", getattr(config, name)
        if isinstance(value, Config):
            yield from _meanings(value, f"{key}.")
        yield key, " ".join((field.description or "").split())


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _table(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Columns of text; the last is not padded."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
