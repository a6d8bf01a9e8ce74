"""Keys given as flags: `--max-steps 100`. In: a flag. Out: the word of these commands that sets the key it names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from pydantic import BaseModel

from scmf.core.config_kind import section_class
from scmf.core.other_names import our_name
from scmf.train.config import MainConfig


def key_of(flag: str) -> str | None:
    """The key that a flag names, by its own last part or by another trainer's word for it.

    Args:
        flag: with its dashes.

    Returns:
        The dotted key; None where no key has the name, or several have it: `every`, `kind`. Keys of optional sections
        and of lists have none.
    """
    keys = _keys()
    word = flag.lstrip("-").replace("-", "_").lower()
    name = word if word in keys else our_name(word, keys)
    found = keys.get(name or "", ())
    return found[0] if len(found) == 1 else None


@cache
def _keys() -> dict[str, tuple[str, ...]]:
    """Every key of the first kinds of all sections, by its last part."""
    keys: dict[str, tuple[str, ...]] = {}
    for path in _paths(MainConfig):
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
