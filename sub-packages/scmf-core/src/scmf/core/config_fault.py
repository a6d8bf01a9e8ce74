"""Faults of a configuration: pydantic's findings go in; sentences with key, place and way out come out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from scmf.core.config_keys import key_below
from scmf.core.config_kind import entry_class, kinds_of, section_class
from scmf.core.errors import ConfigError, legible
from scmf.core.near_word import nearest
from scmf.core.other_names import our_name
from scmf.core.text import brief

Path = tuple[str | int, ...]

_EXPECTED = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a section of `key: value` lines",
    "model_type": "must be a section of `key: value` lines",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, before it is an exception."""

    key: str
    """Dotted path of the key, relative to the section that found the fault; empty for the section itself."""
    what: str
    """The sentence, with every number that matters and the full names of the keys it is about."""
    fix: str
    """What to write instead."""

    def details(self, value: object = None) -> InitErrorDetails:
        """The fault as pydantic carries it, so that it is reported together with pydantic's own."""
        error = PydanticCustomError("fault", "{what}; {fix}", {"what": self.what, "fix": self.fix})
        return InitErrorDetails(type=error, loc=tuple(self.key.split(".")) if self.key else (), input=value)


def raise_faults(title: str, faults: Iterable[Fault]) -> None:
    """Raise all faults as one ValidationError; do nothing when there are none."""
    found = [fault.details() for fault in faults]
    if found:
        raise ValidationError.from_exception_data(title, found)


def faults_of(error: ValidationError, cls: type[BaseModel], values: object) -> list[Fault]:
    """Translate pydantic's findings in the order of the sections; the branches of a union make one fault.

    Args:
        error: what pydantic found.
        cls: the config class that was asked for.
        values: the document that was checked, as plain mappings, lists and scalars.
    """
    grouped: dict[object, tuple[Path, list[ErrorDetails]]] = {}
    for number, details in enumerate(error.errors(include_url=False)):
        ours = details["type"] == "fault"
        path = details["loc"] if ours else _path_in(values, details["loc"])
        # Two rules may be broken by one key, and each has its own sentence.
        grouped.setdefault(number if ours else path, (path, []))[1].append(details)
    return [_fault(path, found, cls=cls, values=values) for path, found in grouped.values()]


def config_error(faults: Sequence[Fault], *, source: str, origins: Mapping[Path, str] | None = None) -> ConfigError:
    """One exception for all faults of a document: three lines for one fault, a numbered list for several.

    Args:
        faults: at least one.
        source: the file or command the document came from.
        origins: where each key was written: `line 12`, or the override that set it.
    """
    places = [_place(fault, origins or {}) for fault in faults]
    if len(faults) == 1:
        place = ", ".join(part for part in (source, places[0], brief(faults[0].key)) if part)
        return ConfigError(brief(faults[0].what), where=place, fix=faults[0].fix)
    lines = [
        f"  {number}. {legible(brief(fault.what))}{f' ({place})' if place else ''}: {legible(fault.fix)}"
        for number, (fault, place) in enumerate(zip(faults, places, strict=True), start=1)
    ]
    what = f"{len(faults)} faults in the configuration\n" + "\n".join(lines)
    return ConfigError(what, where=source, fix=f"mend the {len(faults)} keys listed above; each says how")


def _place(fault: Fault, origins: Mapping[Path, str]) -> str:
    """Where the key, or the nearest section around it that was written at all, stands."""
    path: Path = tuple(fault.key.split(".")) if fault.key else ()
    while path and path not in origins:
        path = path[:-1]
    return origins.get(path, "")


def _path_in(values: object, loc: Path) -> Path:
    """The part of a location that is keys; pydantic appends the names of a union's branches."""
    path: list[str | int] = []
    here = values
    for part in loc:
        if isinstance(here, Mapping):
            path.append(part)
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int):
            path.append(part)
            here = here[part] if part < len(here) else None
        else:
            break
    return tuple(path)


def _fault(path: Path, found: Sequence[ErrorDetails], *, cls: type[BaseModel], values: object) -> Fault:
    key = ".".join(str(part) for part in path)
    first = found[0]
    if first["type"] == "json_invalid":  # of a document that was parsed, the one thing that JSON cannot carry
        return Fault("", "a number has more than 4,300 digits", "write a shorter number")
    if first["type"] == "fault":
        return Fault(key, first["ctx"]["what"], first["ctx"]["fix"])
    if first["type"] == "extra_forbidden":
        return _key_of_another_kind(path, cls, values) or _unknown_key(path, _section_at(cls, values, path[:-1]), cls)
    description = _description(_section_at(cls, values, path[:-1]), path)
    if first["type"] == "missing":
        return Fault(key, f"{key} is missing", f"add `{path[-1]}:` {description}".rstrip())
    if first["type"] == "value_error":
        return Fault(key, f"{key}: {first['ctx']['error']}", f"correct the value {description}".rstrip())
    wanted = " or ".join(dict.fromkeys(_wanted(details) for details in found))
    what = f"{key or 'the document'} {wanted}, not {show(first['input'])}"
    return Fault(key, what, _advice(first, found) or f"correct the value {description}".rstrip())


def _unknown_key(path: Path, section: type[BaseModel] | None, document: type[BaseModel]) -> Fault:
    key = ".".join(str(part) for part in path)
    keys = [field.alias or name for name, field in section.model_fields.items()] if section else []
    where = ".".join(str(part) for part in path[:-1]) or "the document"
    word = str(path[-1])
    # A key that is only in the wrong section is named in full.
    elsewhere = key_below(document, word)
    near = our_name(word, keys) or (elsewhere if elsewhere != key else None) or nearest(word, keys)
    fix = f"did you mean `{near}`? " if near else "remove it. "
    return Fault(key, f"{key} is not a key of {where}", f"{fix}The keys there: {', '.join(keys)}")


def _key_of_another_kind(path: Path, document: type[BaseModel], values: object) -> Fault | None:
    """What is wrong with a key that its section would have were it of another kind; None for any other key."""
    parent, section = _section_at(document, values, path[:-2]), _section_at(document, values, path[:-1])
    field = _field(parent, path[-2]) if len(path) > 1 else None
    kinds = kinds_of(field) if field is not None else {}
    other = next((kind for kind, cls in kinds.items() if _field(cls, path[-1])), None)
    mine = next((kind for kind, cls in kinds.items() if cls is section), None)
    if section is None or other is None or mine is None:
        return None
    key, where = ".".join(map(str, path)), ".".join(map(str, path[:-1]))
    needed = [f"{f.alias or name}: ..." for name, f in section.model_fields.items() if f.is_required()]
    whole = f"{where}={{{', '.join([f'kind: {mine}', *needed])}}}"
    what = f"{key} is a key of kind {other}, and {where}.kind is {mine}"
    return Fault(key, what, f"remove it; on a command line the whole section takes its place: {shlex.quote(whole)}")


def _section_at(cls: type[BaseModel], values: object, path: Path) -> type[BaseModel] | None:
    """The config class that the section at a path is checked by."""
    here: type[BaseModel] | None = cls
    entries: FieldInfo | None = None  # of the mapping of sections that the path is in
    for part in path:
        values = values.get(part) if isinstance(values, Mapping) else None
        if entries is not None:
            here, entries = entry_class(entries, values), None
            continue
        field = _field(here, part)
        here = section_class(field, values) if field else None
        entries = field if here is None else None
    return here


def _field(section: type[BaseModel] | None, key: str | int) -> FieldInfo | None:
    fields = section.model_fields if section else {}
    return next((field for name, field in fields.items() if key == (field.alias or name)), None)


def _description(section: type[BaseModel] | None, path: Path) -> str:
    field = _field(section, path[-1]) if path else None
    return f"({' '.join(field.description.split())})" if field and field.description else ""


def _wanted(details: ErrorDetails) -> str:
    template = _EXPECTED.get(details["type"])
    if template is None:
        return "is refused: " + details["msg"]
    return template.format(**details.get("ctx", {}))


def _advice(details: ErrorDetails, found: Sequence[ErrorDetails]) -> str:
    """A way out that the value itself suggests; empty when it suggests none."""
    value = details["input"]
    kinds = {one["type"] for one in found}
    if isinstance(value, str) and kinds & {"int_type", "float_type", "bool_type"} and _is_plain(value):
        return f"write {value} without quotes"
    if isinstance(value, float) and kinds & {"int_type", "int_from_float"} and value.is_integer():
        return f"write {int(value)}"
    if "literal_error" in kinds and isinstance(value, str):
        expected = next(one["ctx"]["expected"] for one in found if one["type"] == "literal_error")
        near = nearest(value, [word.strip(" '") for word in expected.replace(" or ", ",").split(",")])
        return f"did you mean {near}?" if near else ""
    if kinds == {"string_type"} and isinstance(value, int | float):
        return f'put it in quotes: "{show(value)}"'
    return ""


def _is_plain(text: str) -> bool:
    try:
        return isinstance(json.loads(text), int | float)
    except (ValueError, RecursionError):  # text of a thousand brackets is no number either
        return False


def show(value: object) -> str:
    """A value as a person wrote it, short."""
    if isinstance(value, Mapping):
        return "a section of keys" if value else "an empty section"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, BaseModel):
        return f"a {type(value).__name__}"
    if isinstance(value, str) or value is None or isinstance(value, bool):
        text = json.dumps(value, ensure_ascii=False)
        return (text if len(text) <= 60 else text[:57] + '..."') + (" (text)" if isinstance(value, str) else "")
    return _show_number(value)


def _show_number(value: Any) -> str:
    # Python refuses to write integers of more than 4,300 digits.
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    return repr(value)
