"""Writing of a configuration: a config goes in; commented YAML, JSON or a JSON Schema comes out."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from scmf.core.config import Config
from scmf.core.config_read import RESOLVERS
from scmf.core.errors import ConfigError

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_WIDTH = 112


class _Dumper(yaml.SafeDumper):
    """Writes scalars so that YAML 1.1 and 1.2 readers agree about them: text that either would misread is quoted."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {  # noqa: RUF012  # the stubs know no ClassVar here
        first: list(found) for first, found in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Plain where it can be read back, on one line always."""
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


for _tag, _pattern, _first in RESOLVERS:
    _Dumper.add_implicit_resolver(_tag, _pattern, ["" if c == "\0" else c for c in _first])
_Dumper.add_representer(str, _Dumper.represent_text)


def to_yaml(config: Config, *, header: Sequence[str] = ()) -> str:
    """Write every key of a config with its description as a comment.

    Args:
        config: any config.
        header: lines of comment for the top of the file.

    Returns:
        YAML text that reads back to an equal config.
    """
    lines = [f"# {line}".rstrip() for line in header]
    for entry in _entries(config, indent=0):
        lines += ["", *entry]
    return "\n".join(lines).lstrip("\n") + "\n"


def to_json(config: Config) -> str:
    """Write every key of a config as JSON, which has no comments."""
    return json.dumps(config.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False) + "\n"


def json_schema(cls: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a config class, for editors and for checks in other languages."""
    return {"$schema": SCHEMA_DIALECT, **cls.model_json_schema(by_alias=True)}


def write_config(config: Config, path: str | Path, *, header: Sequence[str] = (), overwrite: bool = False) -> None:
    """Write a config to a file, whole or not at all; the suffix says YAML or JSON.

    Args:
        config: any config.
        path: *.yaml, *.yml or *.json; missing folders are made.
        header: lines of comment, for YAML.
        overwrite: replace a file that is there.

    Raises:
        ConfigError: another suffix, or the file exists.
        OSError: the disk is full, or the folder may not be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".yaml", ".yml", ".json"):
        raise ConfigError(
            f'a configuration is YAML or JSON, and "{path.name}" says neither',
            where=str(path),
            fix="end the name in .yaml, .yml or .json",
        )
    if path.exists() and not overwrite:
        raise ConfigError(
            "this file exists, and it may hold somebody's edits",
            where=str(path),
            fix="name another file, or add --force",
        )
    text = to_json(config) if suffix == ".json" else to_yaml(config, header=header)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, text)


def _replace(path: Path, text: str) -> None:
    """Write beside the target, then rename: a reader sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _entries(config: Config, *, indent: int) -> Iterator[list[str]]:
    """The lines of each key of a section, comment first."""
    plain = config.model_dump(mode="json", by_alias=True)
    # Sections last: a value after a section's end is easily taken for one of that section's.
    fields = sorted(type(config).model_fields.items(), key=lambda item: _is_section(getattr(config, item[0])))
    for name, field in fields:
        key = field.alias or name
        value = getattr(config, name)
        yield [*_comment(field, value, indent=indent), *_entry(key, value, plain[key], indent=indent)]


def _comment(field: FieldInfo, value: object, *, indent: int) -> list[str]:
    text = " ".join((field.description or _summary(value)).split())
    mark = " " * indent + "# "
    return textwrap.wrap(
        text, _WIDTH, initial_indent=mark, subsequent_indent=mark, break_long_words=False, break_on_hyphens=False
    )


def _entry(key: str, value: object, plain: object, *, indent: int) -> list[str]:
    """A key on one line, or a section's key followed by its own keys."""
    pad = " " * indent
    if isinstance(value, Config):
        inner = [line for lines in _entries(value, indent=indent + 2) for line in lines]
    elif _is_section(value):
        names = cast("dict[str, Config]", value)
        inner = [line for name in names for line in _entry(_scalar(name), names[name], None, indent=indent + 2)]
    else:
        return [f"{pad}{key}: {_scalar(plain)}"]
    return [f"{pad}{key}:", *inner] if inner else [f"{pad}{key}: {{}}"]


def _is_section(value: object) -> bool:
    """Whether a value is written on lines of its own: a section, or sections by name."""
    by_name = isinstance(value, dict) and bool(value) and all(isinstance(entry, Config) for entry in value.values())
    return by_name or isinstance(value, Config)


def _summary(value: object) -> str:
    """First paragraph of a section's class documentation."""
    return (type(value).__doc__ or "").split("\n\n")[0] if isinstance(value, Config) else ""


def _scalar(value: object) -> str:
    """A value on one line."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
