"""Base of every configuration: frozen, closed and strict."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every config. The string under a field is its documentation, in the YAML and in the schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    def replace(self, **changes: Any) -> Self:
        """Return a checked copy. (`model_copy(update=...)` does not check.)"""
        return type(self).model_validate({**dict(self), **changes})
