"""The word that a misspelt one was meant to be. In: a word and those that are known. Out: the nearest of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

_ALIKE: Final = 0.6
"""Share of equal letters from which one word is taken for a misspelling of another; difflib's own default."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant; None where nothing is near.

    Args:
        word: as written; capitals and the dashes of a flag do not count.
        known: words among which one may have been meant.
    """
    bare = {_bare(name): name for name in known}
    close = difflib.get_close_matches(_bare(word), bare, n=1, cutoff=_ALIKE)
    # A beginning such as `10m` is far from `10m-pretrain` by edit distance and near by intent.
    close = close or sorted((name for name in bare if _begins(_bare(word), name)), key=len)
    return bare[close[0]] if close else None


def _bare(word: str) -> str:
    return word.lower().lstrip("-")


def _begins(word: str, name: str) -> bool:
    return bool(word and name) and (name.startswith(word) or word.startswith(name))
