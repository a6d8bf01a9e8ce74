"""Keys by their names. In: the class of a section and a word. Out: the key somewhere below it that has the name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from pydantic import BaseModel

from scmf.core.config_kind import section_class
from scmf.core.other_names import our_name


def key_below(section: type[BaseModel], word: str) -> str | None:
    """The key of a section or of those in it that a word names: its last part, or another trainer's word for that.

    Args:
        section: a config class.
        word: such as `max_steps` or `learning-rate`.

    Returns:
        The dotted key, relative to the section; None where no key has the name, or several have it: `every`, `kind`.
        Keys of optional sections and of lists are not looked at.
    """
    keys = _keys(section)
    name = word.lower().replace("-", "_")
    found = keys.get(name if name in keys else our_name(name, keys) or "", ())
    return found[0] if len(found) == 1 else None


@cache
def _keys(section: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    """Every key, of the first kinds of all sections, by its last part."""
    keys: dict[str, tuple[str, ...]] = {}
    for path in _paths(section):
        last = path.rpartition(".")[2]
        keys[last] = (*keys.get(last, ()), path)
    return keys


def _paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        path = prefix + (field.alias or name)
        inner = section_class(field, None)
        if inner is None:
            yield path
        elif isinstance(field.annotation, type):  # a section that is always there: not one of a list, nor optional
            yield from _paths(inner, f"{path}.")
