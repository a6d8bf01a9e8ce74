"""Overrides: `a.b=value` words of a command line go in, the document with those keys set comes out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Final

from scmf.core.config_fault import show
from scmf.core.config_read import MAX_DEPTH, Document, parse_yaml
from scmf.core.errors import ConfigError
from scmf.core.text import brief

_KEY: Final = re.compile(r"([a-z_]+(?:\.[a-z_]+)+)\s*[:=]?")
"""A dotted key, from which a value has come off: `a.b`, `a.b:`, `a.b =1`."""


def override(document: Document, assignments: Sequence[str]) -> Document:
    """Set keys of a document; whether the keys exist is checked with the rest of the document.

    Args:
        document: as read from a file; not changed.
        assignments: `dotted.key=value`, later ones win; a value is YAML: a number, text, `[1, 2]`, `{a: 1}`, null.

    Raises:
        ConfigError: not of that form, a value that is not YAML, or a path through something that is no section.
    """
    values = deepcopy(document.values)
    origins = dict(document.origins)
    for assignment in assignments:
        path, value = parse_assignment(assignment)
        begun = _set(values, path, value, assignment=assignment)
        for old in [old for old in origins if old[: len(path)] == path]:
            del origins[old]
        for part in (*begun, path):
            origins[part] = f"override {brief(assignment)}"
    return Document(values, document.source, origins)


def parse_assignment(assignment: str) -> tuple[tuple[str, ...], Any]:
    """Split `a.b=value` into its path and its value."""
    key, equals, text = assignment.partition("=")
    path = tuple(key.split("."))
    if not equals or not all(part and part == part.strip() for part in path):
        meant = _KEY.match(assignment)
        raise ConfigError(
            f"{brief(assignment)} is no override",
            where="command line",
            fix=f"write {meant[1]}=VALUE, without a space"
            if meant
            else "write dotted.key=value, for example trainer.optimizer.lr=3e-4",
        )
    if len(path) > MAX_DEPTH:
        raise ConfigError(
            f"a key of {len(path)} parts, and no section is nested deeper than {MAX_DEPTH} levels",
            where=f"command line, {brief(assignment)}",
            fix="write dotted.key=value, for example trainer.optimizer.lr=3e-4",
        )
    if not text.strip():
        raise ConfigError(
            f"{brief(key)} is given no value",
            where="command line",
            fix=f"write {brief(key)}=null for nothing, {brief(key)}='\"\"' for empty text",
        )
    return path, parse_yaml(f"value: {text}", f"command line, {brief(assignment)}").values["value"]


def _set(values: dict[str, Any], path: tuple[str, ...], value: object, *, assignment: str) -> list[tuple[str, ...]]:
    """Set one key in place; returns the sections that had to be begun for it."""
    here = values
    begun = []
    for depth, part in enumerate(path[:-1], start=1):
        inner = here.get(part)
        if inner is None:
            # A section that is left out or null is begun; a misspelt one is found when the document is checked.
            inner = here[part] = {}
            begun.append(path[:depth])
        if not isinstance(inner, dict):
            key = brief(".".join(path[:depth]))
            raise ConfigError(
                f"{key} is {show(inner)}, so it has no key {brief(path[depth])}",
                where=f"command line, {brief(assignment)}",
                fix=f"give the whole value: {key}=...",
            )
        here = inner
    here[path[-1]] = value
    return begun
