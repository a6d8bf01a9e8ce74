"""Base of every configuration: frozen, closed and strict; values go in, a checked config or a ConfigError comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema, to_json

from scmf.core.config_fault import Fault, Path, config_error, faults_of, raise_faults
from scmf.core.config_kind import dotted
from scmf.core.errors import ConfigError


class Config(BaseModel):
    """Base of every config. The string under a field is its documentation, in the YAML and in the schema."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )

    def faults(self) -> Iterator[Fault]:
        """Rules between fields of this section: yield a Fault for each that is broken.

        A subclass adds its own after `yield from super().faults()`. All faults are reported together.
        """
        yield from ()

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        raise_faults(type(self).__name__, self.faults())
        return self

    if not TYPE_CHECKING:  # type checkers know frozen models; a method here would make them accept any name

        def __setattr__(self, name: str, value: object) -> NoReturn:
            raise ConfigError(
                "a config is not changed after it was checked, so that what is printed is what ran",
                where=f"{type(self).__name__}.{name}",
                fix=f"make a changed copy: config.replace({name}=...)",
            )

    def replace(self, **changes: Any) -> Self:
        """Return a checked copy. (`model_copy(update=...)` does not check.)

        Args:
            changes: new values by attribute or key.

        Raises:
            ConfigError: for an unknown name, a wrong type or value, a broken rule.
        """
        keys = {name: field.alias or name for name, field in type(self).model_fields.items()}
        values = {keys[name]: getattr(self, name) for name in keys}
        values |= {keys.get(name, name): value for name, value in changes.items()}
        try:
            return type(self).model_validate(values)
        except ValidationError as error:
            raise config_error(faults_of(error, type(self), values), source=type(self).__name__) from None

    @classmethod
    def parse(cls, values: object, *, source: str, origins: Mapping[Path, str] | None = None) -> Self:
        """Check a document made of plain mappings, lists and scalars.

        Args:
            values: the document, as read from YAML or JSON.
            source: the file or command it came from, for messages.
            origins: where each key was written (`line 12`), for messages.

        Raises:
            ConfigError: naming every fault of the document, its key, its place and the way out.
        """
        try:
            return cls.model_validate_json(to_json(values, inf_nan_mode="constants"))
        except ValidationError as error:
            raise config_error(faults_of(error, cls, values), source=source, origins=origins) from None


T = TypeVar("T", bound="Variant")


class Variant(Config):
    """Base of a section that has variants. `kind` follows from the class, so it is never set by hand.

    A built-in names itself, `class CellsConfig(DataConfig, kind="cells")`; any other subclass is named by its
    dotted path, which is how a file finds it again.
    """

    built_in_kind: ClassVar[str | None] = None

    kind: Annotated[str, Field(validate_default=True)] = ""
    """A built-in name, or the dotted path of your own class, which is imported: use only configs you trust."""

    def __init_subclass__(cls, *, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass of a built-in does not inherit its name: it would be read back as its parent.
        cls.built_in_kind = kind

    @classmethod
    def kind_name(cls) -> str:
        """What `kind:` says for this class."""
        return cls.built_in_kind or dotted(cls)

    @field_validator("kind")
    @classmethod
    def _names_this_class(cls, kind: str) -> str:
        if kind not in ("", cls.kind_name()):
            raise ValueError(f"this class is {cls.kind_name()}")
        return cls.kind_name()

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = handler(schema)
        kind = handler.resolve_ref_schema(json_schema)["properties"]["kind"]
        kind |= {"const": cls.kind_name(), "default": cls.kind_name()}
        return json_schema


def require(section: Variant, cls: type[T], *, key: str) -> T:
    """The section as the class that the caller can build; for code that meets a user's own kind.

    Args:
        section: of a checked config.
        cls: what the caller can build, subclasses included.
        key: the section's key, for the message.

    Raises:
        ConfigError: the section is of another kind.
    """
    if isinstance(section, cls):
        return section
    raise ConfigError(
        f"{key}.kind={section.kind} is no {cls.__name__}, and nothing else can be built here",
        where=f"{key}.kind",
        fix=f"write {key}.kind: {cls.kind_name()}, or derive your class from {dotted(cls)}",
    )
