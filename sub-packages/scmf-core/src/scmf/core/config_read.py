"""Documents of a configuration: a YAML or JSON file goes in, plain values with the place of each key come out.

YAML is read by the 1.2 core schema: `1e-3` is a number (YAML 1.1 reads text), `no` is text (1.1 reads false),
`2024-01-01` is text. Nothing but mappings, lists and scalars can be constructed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from scmf.core.config_fault import Path as KeyPath
from scmf.core.errors import ConfigError
from scmf.core.near_path import correction
from scmf.core.text import brief

MAX_BYTES = 1_000_000
"""A configuration has a few kilobytes; whatever is larger is another file."""

MAX_DEPTH = 32
"""Sections inside sections. PyYAML recurses, so that deeper files would end in Python's stack."""

RESOLVERS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), "~nN\0"),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+.0123456789",
    ),
)
"""Tag, pattern and first characters of every plain scalar that is not text. Source: YAML 1.2.2, section 10.3.2."""


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration file as it was written, before any check of its keys."""

    values: dict[str, Any]
    source: str
    """The file's name, for messages."""
    origins: dict[KeyPath, str] = field(default_factory=dict)
    """Where each key was written, for messages: `line 12`."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  # the stubs know no ClassVar here

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse what would recurse without end, or grow without end when written out again."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # types-PyYAML leaves it out
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases are not supported: repeat the value", mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern, _first in RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, ["" if c == "\0" else c for c in _first])
# PyYAML's own constructor of integers reads 0123 as octal and 1:30 as base 60; 1.2 has neither.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _loader, node: int(node.value))


def read_document(path: str | Path) -> Document:
    """Read a configuration file; the suffix says whether it is YAML or JSON.

    Args:
        path: a file named *.yaml, *.yml or *.json, in UTF-8.

    Raises:
        ConfigError: missing, unreadable, not UTF-8, bad syntax, a key written twice, or no mapping at the top.
    """
    parsers: dict[str, Callable[[str, str], Document]] = {
        ".yaml": parse_yaml, ".yml": parse_yaml, ".json": parse_json,
    }  # fmt: skip
    source = str(Path(path))
    suffix = Path(path).suffix.lower()
    if suffix not in parsers and not Path(path).is_dir():
        raise ConfigError(
            f'a configuration is YAML or JSON, and its name says which; "{suffix}" says neither',
            where=source,
            fix="rename it to .yaml, .yml or .json",
        )
    text = _text(Path(path))
    return parsers[suffix](text, source)


def parse_yaml(text: str, source: str) -> Document:
    """Parse YAML text; errors name the line."""
    origins: dict[KeyPath, str] = {}
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        values = None if node is None else _plain(loader, node, (), origins)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        _refuse(problem, source, line=mark.line + 1 if mark else None)
    except yaml.reader.ReaderError as error:
        _refuse(f"character {error.character!r} is not allowed: {error.reason}", source, line=None)
    except ValueError as error:  # integers of more than 4,300 digits
        _refuse(str(error), source, line=None)
    finally:
        if loader is not None:
            loader.dispose()
    return _document(values, source, origins)


def parse_json(text: str, source: str) -> Document:
    """Parse JSON text; errors name the line."""
    try:
        values = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        _refuse(error.msg, source, line=error.lineno)
    except RecursionError:
        values = None
        deep = True
    except ValueError as error:
        _refuse(str(error), source, line=None)
    else:
        deep = _depth(values) > MAX_DEPTH
    if deep:
        _refuse(f"nested deeper than {MAX_DEPTH} levels", source, line=None)
    return _document(values, source, {})


def _depth(values: object) -> int:
    """Levels of a document; pydantic and PyYAML end in errors of their own some hundreds of levels down."""
    depth, level = 0, [values]
    while level := [inner for one in level for inner in _inner(one)]:
        depth += 1
    return depth


def _inner(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            _refuse(f"{path.stat().st_size:,} bytes: too large for a configuration", str(path), line=None)
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        fix = f"{correction(path)} To write one: scmf-recipe --recipe 10m-pretrain --dest {shlex.quote(str(path))}"
        raise ConfigError("there is no such configuration", where=str(path), fix=fix) from None
    except IsADirectoryError:
        fix = f"name a file in it, perhaps {path / 'config.yaml'}"
        raise ConfigError("a configuration is a file, and this is a folder", where=str(path), fix=fix) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"byte {error.start:,} is not UTF-8, so this is no text file or one in another encoding",
            where=str(path),
            fix="save it as UTF-8",
        ) from None


def _plain(loader: _Loader, node: yaml.Node, path: KeyPath, origins: dict[KeyPath, str]) -> Any:
    """Turn a node into mappings, lists and scalars, and note the line of every key."""
    if node.tag.removeprefix("tag:yaml.org,2002:") not in ("map", "seq", "str", "int", "float", "bool", "null"):
        raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag} is not supported", node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, path, origins)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, number), origins) for number, item in enumerate(node.value)]
    return loader.construct_object(node)


def _mapping(loader: _Loader, node: yaml.MappingNode, path: KeyPath, origins: dict[KeyPath, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        here = (*path, key)
        line = f"line {key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
        if key in values:
            problem = f"{'.'.join(map(str, here))} is written twice, first on {origins[here]}; keep one"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        origins[here] = line
        values[key] = _plain(loader, value_node, here, origins)
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"{key} is written twice in one section; keep one")
        values[key] = value
    return values


def _document(values: object, source: str, origins: dict[KeyPath, str]) -> Document:
    if not isinstance(values, dict) or not values:
        found = "nothing" if not values else f"one {type(values).__name__}"
        raise ConfigError(
            f"a configuration is `key: value` lines, and this holds {found}",
            where=source,
            fix="start from a recipe: scmf-recipe --recipe 10m-pretrain --dest cfg.yaml",
        )
    half = next((path for path in _half_characters(values)), None)
    if half is not None:
        place = ", ".join([source, *filter(None, [origins.get(half)]), brief(".".join(map(str, half)))])
        raise ConfigError(
            "text holds half a character (a lone surrogate), which no encoding can write",
            where=place,
            fix="write the character itself, or both halves of its \\u escape",
        )
    return Document(values, source, origins)


def _half_characters(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Places of text that UTF-8 cannot carry. YAML refuses it by itself, except in an escape; JSON never does."""
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            yield path
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _half_characters(key, (*path, key))
            yield from _half_characters(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _half_characters(inner, (*path, number))


def _refuse(problem: str, source: str, *, line: int | None) -> NoReturn:
    where = source if line is None else f"{source}, line {line}"
    fix = "mend the line" if line is not None else "mend the file, or write a new one with scmf-recipe"
    raise ConfigError(f"cannot be read: {problem}", where=where, fix=fix) from None
