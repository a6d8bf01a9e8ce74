"""Which tokens, or which sequences, train, validate and test. In: a store and shares. Out: sets that never meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scmf.core.errors import ConfigError
from scmf.core.random import derive_seed
from scmf.data.config import ContiguousSplitConfig, HashSplitConfig, SharesConfig
from scmf.data.split import RunSet
from scmf.data.step_stream import SplitName

HashArray = npt.NDArray[np.uint64]

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class TokenRanges:
    """The tokens of a store in three stretches: training, then validation, then test."""

    validation: int
    """Place of the first token of validation: the end of training."""
    test: int
    """Place of the first token of test."""
    end: int
    """Tokens of the store."""

    def of(self, split: SplitName) -> tuple[int, int]:
        """First token of a split, and its end."""
        edges = {
            "train": (0, self.validation),
            "validation": (self.validation, self.test),
            "test": (self.test, self.end),
        }
        return edges[split]

    def __str__(self) -> str:
        return "; ".join(
            f"{name} tokens {start:,} to {stop - 1:,}"
            for name in SPLITS
            for start, stop in (self.of(name),)
            if stop > start
        )


def contiguous_ranges(n_tokens: int, split: ContiguousSplitConfig) -> TokenRanges:
    """Cut the tokens of a store in three.

    Args:
        n_tokens: of the store.
        split: the shares, which are rounded to whole tokens.

    Raises:
        ConfigError: a set that is asked for would be empty.
    """
    validation, test = round(n_tokens * split.validation), round(n_tokens * split.test)
    _refuse_empty(split, (n_tokens - validation - test, validation, test), n_tokens, "token")
    return TokenRanges(n_tokens - validation - test, n_tokens - test, n_tokens)


def split_by_hash(hashes: HashArray, split: HashSplitConfig, *, seed: int) -> dict[SplitName, RunSet]:
    """Divide sequences by a hash of their tokens and of the seed: equal sequences are never on two sides.

    Args:
        hashes: (n,) uint64 hash of each sequence's tokens.
        split: the shares, met to chance: every sequence is drawn by itself.
        seed: the run's.

    Raises:
        ConfigError: a set that is asked for is empty.
    """
    drawn = _scattered(hashes ^ np.uint64(derive_seed(seed, "split")))
    place = drawn.astype(np.float64) / 2.0**64
    validation = place < split.validation
    test = ~validation & (place < split.validation + split.test)
    train = ~(validation | test)
    sets = [RunSet.of(member) for member in (train, validation, test)]
    _refuse_empty(split, (len(sets[0]), len(sets[1]), len(sets[2])), len(hashes), "sequence")
    return dict(zip(SPLITS, sets, strict=True))


def _scattered(words: HashArray) -> HashArray:
    """splitmix64's finaliser of each word: the store's hashes are good, the seed is only combined with them."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return words ^ (words >> np.uint64(31))


def _refuse_empty(split: SharesConfig, sizes: tuple[int, int, int], total: int, noun: str) -> None:
    asked = (("train", 1.0), ("validation", split.validation), ("test", split.test))
    for (name, share), size in zip(asked, sizes, strict=True):
        if share > 0 and size == 0:
            raise ConfigError(
                f"data.split.validation={split.validation} and data.split.test={split.test} of {total:,} {noun}s leave "
                f"none for {name}",
                where="data.split" if name == "train" else f"data.split.{name}",
                fix="change the shares, or convert more to the store",
            )
