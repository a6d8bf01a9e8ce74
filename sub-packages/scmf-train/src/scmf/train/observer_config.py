"""The `observers` section: the user's own code that watches a run. Values only; nothing is imported here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from scmf.core.config import Config
from scmf.core.config_fault import Fault

_DOTTED: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class ObserverConfig(Config):
    """One class that watches the run, with its settings."""

    observer: Annotated[str, Field(min_length=1, max_length=500)]
    """Dotted path of the class, which is imported when the run is built: use only configs you trust."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Arguments that it is made with, by name."""
    on_error: Literal["stop", "report"] = "stop"
    """What an exception of one of its methods does: stop the run with a checkpoint, or be told in the log."""

    def faults(self) -> Iterator[Fault]:
        """A module and a class; settings that the run's config.yaml can hold."""
        yield from super().faults()
        if not _DOTTED.fullmatch(self.observer):
            yield Fault(
                "observer",
                f"observer: {self.observer} is no dotted path of a class",
                "write it as my_package.my_module.MyObserver, of a module that Python can import",
            )
        if not _finite(self.settings):
            yield Fault(
                "settings",
                f"settings of observer: {self.observer} hold a number that is not finite, which a file cannot keep",
                "write null, or a finite number",
            )


def _finite(value: object) -> bool:
    """Whether all numbers are, inside of lists and sections too: pydantic does not look into values of any type."""
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _section(value: object) -> object:
    """A bare path is an observer without settings."""
    return {"observer": value} if isinstance(value, str) else value


_Entry = Annotated[ObserverConfig, BeforeValidator(_section, json_schema_input_type=str | ObserverConfig)]
Observers = Annotated[tuple[_Entry, ...], Field(strict=False)]
"""A list of dotted paths, or of sections."""
