"""The path that a missing one was meant to be. In: a path that is not there. Out: its neighbour of the nearest name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Final

_ALIKE: Final = 0.75
"""Share of equal letters: one letter of four may be wrong."""
_LOOKED_AT: Final = 2_000
"""Names of a folder that are compared: an answer to a typing error must not list a folder of millions."""


def correction(path: Path, accept: Callable[[Path], bool] = Path.exists) -> str:
    """What to do about a path that is not there: the name that was meant, or to check it.

    Args:
        path: of a file or folder that is missing.
        accept: whether a neighbour could have been meant.
    """
    near = _nearest(path, accept)
    return f"Did you mean {quote(str(near))}?" if near is not None else "Check the path for a typing error."


def _nearest(path: Path, accept: Callable[[Path], bool]) -> Path | None:
    try:
        with os.scandir(path.parent) as entries:
            names = sorted(entry.name for entry in islice(entries, _LOOKED_AT) if not entry.name.startswith("."))
    except OSError:
        return None
    found = difflib.get_close_matches(path.name, names, n=3, cutoff=_ALIKE)
    return next((near for name in found if accept(near := path.with_name(name))), None)
