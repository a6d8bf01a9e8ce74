"""`kind:` of a section: a built-in name or the dotted path of a user's class goes in; the class comes out."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema, to_json

from scmf.core.near_word import nearest


class KindError(Exception):
    """A `kind:` that names no usable class.

    Args:
        what: the sentence.
        fix: the way out.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


@dataclass(frozen=True)
class Kinds:
    """Annotation of a section that has variants: `data: Annotated[DataConfig, Kinds({"cells": CellsConfig})]`.

    The annotated class is the base that every variant subclasses. A section without `kind:` is the first
    built-in. A dotted path imports the user's module: a config can run code, so run only configs you trust.
    """

    built_in: Mapping[str, type[BaseModel]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of built-in names: read, and written back as the one name."""

    def class_of(self, base: type[BaseModel], kind: object) -> type[BaseModel]:
        """The class that a `kind:` names; raises KindError."""
        if kind is None:
            return next(iter(self.built_in.values()))
        if not isinstance(kind, str):
            raise KindError(f"kind must be text, not {kind!r}", self._choices(base))
        kind = self.aliases.get(kind, kind)
        if kind in self.built_in:
            return self.built_in[kind]
        if "." not in kind:
            near = nearest(kind, [*self.built_in, *self.aliases])
            meant = f"did you mean kind: {near}? Otherwise " if near else ""
            raise KindError(f'kind "{kind}" is not built in', meant + self._choices(base))
        return import_class(kind, base)

    def _choices(self, base: type[BaseModel]) -> str:
        names = ", ".join(self.built_in)
        return f"write one of: {names}; or the dotted path of your own subclass of {dotted(base)}"

    def __get_pydantic_core_schema__(
        self, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        known = [handler.generate_schema(cls) for cls in self.built_in.values()]

        def check(value: object, _: core_schema.ValidatorFunctionWrapHandler, info: core_schema.ValidationInfo) -> Any:
            return value if isinstance(value, source) else self._check(source, value, mode=info.mode)

        # The union is there for the JSON Schema; the class is chosen by `kind`, so that a fault inside a
        # section is told about the class that was meant and about no other.
        return core_schema.with_info_wrap_validator_function(
            check, core_schema.union_schema(list(known)), serialization=core_schema.simple_ser_schema("any")
        )

    def _check(self, base: type[BaseModel], value: object, *, mode: str) -> BaseModel:
        if not isinstance(value, Mapping):
            raise PydanticCustomError("model_type", "must be a section of keys")
        try:
            cls = self.class_of(base, value.get("kind"))
        except KindError as error:
            fault = PydanticCustomError("fault", "{what}; {fix}", {"what": error.what, "fix": error.fix})
            details = InitErrorDetails(type=fault, loc=("kind",), input=value.get("kind"))
            raise ValidationError.from_exception_data(base.__name__, [details]) from None
        if value.get("kind") in self.aliases:
            value = {**value, "kind": self.aliases[value["kind"]]}
        if mode == "json":
            # In a document a list is a tuple's and text a path's only spelling; pydantic knows that of JSON.
            return cls.model_validate_json(to_json(value, inf_nan_mode="constants"))
        return cls.model_validate(value)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        known = handler(schema)
        own = {
            "type": "object",
            "description": "Your own class, named by its importable dotted path.",
            "properties": {"kind": {"type": "string", "pattern": r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"}},
            "required": ["kind"],
        }
        return {"anyOf": [*known.get("anyOf", [known]), own]}


def dotted(cls: type) -> str:
    """The importable path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def import_class(path: str, base: type[BaseModel]) -> type[BaseModel]:
    """Import a user's config class; KindError says which part of the path fails and why."""
    module_name, _, class_name = path.rpartition(".")
    module = import_named(module_name, path)
    found = getattr(module, class_name, None)
    if found is None:
        names = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, base) and v is not base]
        fix = f"classes of that module that would do: {', '.join(names) or 'none'}"
        raise KindError(f"{path}: module {module_name} has no {class_name}", fix)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise KindError(
            f"{path} is not a subclass of {dotted(base)}", f"derive it: class {class_name}({base.__name__})"
        )
    return found


def import_named(name: str, path: str) -> ModuleType:
    """Import a user's module.

    Args:
        name: of the module.
        path: as the user wrote it, for messages.

    Raises:
        KindError: there is no such module, or importing it fails.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            fix = "correct the path, install your package, or put its folder on PYTHONPATH"
            raise KindError(f"{path}: there is no module {error.name}", fix) from None
        raise KindError(f"{path}: importing {name} fails: {error}", f"install {error.name}") from None
    except Exception as error:  # whatever the user's module raises, it is the module's fault
        fix = f'mend the module; python -c "import {name}" shows the whole trace'
        raise KindError(f"{path}: importing {name} fails: {type(error).__name__}: {error}", fix) from error


def section_class(field: FieldInfo, value: object) -> type[BaseModel] | None:
    """The config class that a field's value is checked by; None where the field is no section.

    Args:
        field: of a config class.
        value: the section as written, which may name its `kind`.
    """
    base = next((a for a in (field.annotation, *get_args(field.annotation)) if _is_config(a)), None)
    return _of_kind(base, field.metadata, value)


def kinds_of(field: FieldInfo) -> Mapping[str, type[BaseModel]]:
    """The built-in kinds that a field's section may be of, by name; none where it has no variants."""
    return next((m.built_in for m in field.metadata if isinstance(m, Kinds)), {})


def entry_class(field: FieldInfo, value: object) -> type[BaseModel] | None:
    """The config class that an entry of a field is checked by, where the field is a mapping of names to sections.

    Args:
        field: of a config class, such as `tasks: dict[str, Annotated[TaskConfig, Kinds(...)]]`.
        value: the entry as written, which may name its `kind`.
    """
    if get_origin(field.annotation) is not dict:
        return None
    _, entry = get_args(field.annotation)
    base, *metadata = get_args(entry) or (entry,)
    return _of_kind(base if _is_config(base) else None, metadata, value)


def _of_kind(base: type[BaseModel] | None, metadata: Sequence[object], value: object) -> type[BaseModel] | None:
    """The base, or the class among its kinds that a value names."""
    kinds = next((m for m in metadata if isinstance(m, Kinds)), None)
    if base is None or kinds is None:
        return base
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    try:
        return kinds.class_of(base, kind)
    except KindError:
        return None


def _is_config(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
