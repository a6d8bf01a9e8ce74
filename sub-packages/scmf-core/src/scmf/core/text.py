"""Numbers and names in sentences for people. In: a number and a noun. Out: `1 cell`, `2,300 cells`."""

from __future__ import annotations

import re
from typing import Final

_ENDLESS: Final = re.compile(r"\S{200,}")


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun in the right form: `counted(1, "replica")` is `1 replica`.

    Args:
        n: how many.
        noun: the singular.
        plural: where it is not the singular with an s.
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def brief(text: str) -> str:
    """Text for a message with its endless words cut: what a damaged file or a shell's mistake takes for a name.

    Args:
        text: words of 200 characters and more keep their first 80.
    """
    return _ENDLESS.sub(lambda word: f"{word[0][:80]}...", text)
