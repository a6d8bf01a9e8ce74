"""BERT corruption. In: tokens of whole cells. Out: the tokens the model sees, and which it must predict.

Every decision is a hash of (key, cell id, position in the cell). It depends neither on who loads the cell nor
on what lies beside it, and there is no generator whose state could be lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from scmf.core.errors import ConfigError
from scmf.data.order import mix, scale

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]

UNIT = 1.0 / (1 << 53)

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True, slots=True)
class Corruption:
    """The three probabilities of BERT.

    Source: Devlin et al., 2019; each token is chosen by itself, so that a cell's targets vary in number.
    """

    select: float
    """Share of a cell's gene tokens chosen as targets; a cell with genes has at least one."""
    mask: float
    """Of the chosen, the share replaced by <mask>."""
    random: float
    """Of the chosen, the share replaced by a random gene, which may be the same; the rest is kept."""

    def __post_init__(self) -> None:
        inside = 0 < self.select <= 1 and self.mask >= 0 and self.random >= 0
        if not inside or self.mask + self.random > 1:
            raise ConfigError(
                f"select={self.select} must be in (0, 1], mask={self.mask} and random={self.random} "
                "must not be negative and not exceed 1 together",
                where="model.task",
                fix="BERT uses select 0.15, mask 0.8, random 0.1",
            )


@_jit
def word_of(key: np.uint64, cell_id: int, position: int) -> np.uint64:
    """64 random bits of one position of one cell."""
    word = mix(key ^ mix(np.uint64(cell_id) + np.uint64(0x9E3779B97F4A7C15)))
    word = mix(word + np.uint64(position) * np.uint64(0xD1342543DE82EF95))
    return word


@_jit
def choose_targets(
    ids: IntArray, first_gene: int, select: float, words: npt.NDArray[np.uint64], chosen: LongArray
) -> int:
    """Choose a cell's targets.

    Args:
        ids: (length,) int32 tokens of the cell.
        first_gene: ids below are special and never chosen.
        select: probability of each gene token.
        words: (length,) uint64, `word_of` each position.
        chosen: (length,) int64, written: positions chosen, rising.

    Returns:
        How many; at least one where there is a gene.
    """
    n = 0
    lowest = -1
    for position in range(len(ids)):
        if ids[position] < first_gene:
            continue
        if lowest < 0 or words[position] < words[lowest]:
            lowest = position
        if float(words[position] >> np.uint64(11)) * UNIT < select:
            chosen[n] = position
            n += 1
    if n == 0 and lowest >= 0:
        chosen[0] = lowest
        n = 1
    return n


@_jit
def corrupt(token: int, word: np.uint64, genes: tuple[int, int], mask: tuple[int, float, float]) -> np.int64:
    """What the model sees in place of a target.

    Args:
        token: the original.
        word: `word_of` its position; scattered again, because the choice has used it.
        genes: first gene token and number of gene tokens.
        mask: id of <mask>, probability of <mask>, probability of a random gene.
    """
    word = mix(word ^ np.uint64(0xA0761D6478BD642F))
    draw = float(word >> np.uint64(11)) * UNIT
    if draw < mask[1]:
        return np.int64(mask[0])
    if draw < mask[1] + mask[2]:
        return np.int64(genes[0]) + np.int64(scale(mix(word), np.uint64(genes[1])))
    return np.int64(token)
