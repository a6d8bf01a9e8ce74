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
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SECOND = np.uint64(0xA0761D6478BD642F)
LOW = np.uint64(0xFFFFFFFF)

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

    @property
    def threshold(self) -> np.uint64:
        """What 32 random bits are below with the probability `select`."""
        return np.uint64(round(self.select * 2.0**32))


@_jit
def seeds_of(key: np.uint64, cell_id: int) -> tuple[np.uint64, np.uint64]:
    """Where a cell's random words begin: those that choose, and those that corrupt."""
    seed: np.uint64 = mix(key ^ mix(np.uint64(cell_id) + GOLDEN))
    return seed, mix(seed ^ SECOND)


@_jit
def word_of(seed: np.uint64, position: int) -> np.uint64:
    """64 random bits of one position of the cell that the seed names. Source: splitmix64, addressed."""
    word: np.uint64 = mix(seed + np.uint64(position + 1) * GOLDEN)
    return word


@_jit
def choose_targets(ids: IntArray, first_gene: int, seed: np.uint64, threshold: np.uint64, chosen: IntArray) -> np.int64:
    """Choose a cell's targets.

    A position is chosen where its 32 bits are below the threshold. Two neighbours share one 64-bit word: half
    the work, and the halves of a scattered word know nothing of each other.

    Args:
        ids: (length,) int32 tokens of the cell.
        first_gene: ids below are special and never chosen.
        seed: of the cell.
        threshold: 2**32 times the probability.
        chosen: (length + 1,) int32 or longer, written: positions chosen, rising.

    Returns:
        How many; at least one where there is a gene.
    """
    # Three plain loops are vector code, one that decides and writes is not: half the time.
    marks = np.empty(len(ids) + 1, np.bool_)
    for pair in range((len(ids) + 1) // 2):
        word = word_of(seed, pair)
        marks[2 * pair] = word & LOW < threshold
        marks[2 * pair + 1] = word >> np.uint64(32) < threshold
    for position in range(len(ids)):
        marks[position] &= ids[position] >= first_gene
    n = np.uint64(0)
    for position in range(len(ids)):
        # No branch: one position in seven is chosen, which no processor can foresee.
        chosen[n] = position
        n += np.uint64(marks[position])
    if n == 0:
        chosen[0] = _lowest(ids, first_gene, seed)
        return np.int64(chosen[0] >= 0)
    return np.int64(n)


@_jit
def _bits_of(seed: np.uint64, position: int) -> np.uint64:
    """The 32 bits that decide whether a position is chosen."""
    bits: np.uint64 = (word_of(seed, position // 2) >> np.uint64(32 * (position % 2))) & LOW
    return bits


@_jit
def _lowest(ids: IntArray, first_gene: int, seed: np.uint64) -> np.int64:
    """The gene that a higher probability would have chosen first, or -1 where there is none."""
    lowest = np.int64(-1)
    for position in range(len(ids)):
        if ids[position] >= first_gene and (lowest < 0 or _bits_of(seed, position) < _bits_of(seed, lowest)):
            lowest = np.int64(position)
    return lowest


@_jit
def corrupt(token: int, word: np.uint64, genes: tuple[int, int], mask: tuple[int, float, float]) -> np.int64:
    """What the model sees in place of a target.

    Args:
        token: the original.
        word: `word_of` its position in the cell's second seed.
        genes: first gene token and number of gene tokens.
        mask: id of <mask>, probability of <mask>, probability of a random gene.
    """
    draw = float(word >> np.uint64(11)) * UNIT
    # All three are computed: one in five is not the mask, which no processor can foresee.
    gene = np.int64(genes[0]) + np.int64(scale(mix(word), np.uint64(genes[1])))
    changed = gene if draw < mask[1] + mask[2] else np.int64(token)
    return np.int64(mask[0]) if draw < mask[1] else changed
