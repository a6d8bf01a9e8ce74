"""What a run, or a store, has of cells, in two bytes each. In: hashes of cells. Out: whether a cell is among them.

A ledger answers "has this cell been seen?" without the cells. It never forgets one: a cell that was put in is
always found. It errs the other way with a known rate, `false_positive_rate`, at most 1 in 10,000.

The file, little-endian: MAGIC, uint32 length of the facts, the facts (JSON), (buckets + 1) uint64 first word of
each bucket, the words (see ledger_kernel), and 16 bytes xxh3-128 of everything before.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import Field, NonNegativeInt, ValidationError

from scmf.core.config import Config
from scmf.core.errors import StoreError
from scmf.data.ledger_kernel import SPAN, bits_of_gap, decode, encode_ranges, find
from scmf.data.manifest import IdSpace

KeyArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]

MAGIC: Final = b"SCMFLDG\x01"
LEDGER: Final = "seen.ledger"
"""Name of a checkpoint's ledger."""
SPREAD: Final = 20_000
"""A cell has between half of this and this many positions to itself: the inverse of the rate of false positives."""
_DIGEST: Final = 16
_SCAN: Final = 1 << 20


class LedgerFacts(Config):
    """What a ledger says of itself."""

    version: Literal[1] = 1
    kind: Literal["store", "run"]
    """The cells of a store, or those that a run has trained on so far."""
    store: Annotated[str, Field(min_length=1)]
    """Fingerprint of the store that the cells are of."""
    id_space: IdSpace
    """Id space of the genes: a cell counted over symbols is not the same as over Ensembl ids."""
    genes: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Order-free fingerprint of the genes; with other genes the same cell may have other counts."""
    n_cells: NonNegativeInt
    """Different cells put in, less the few (1 in 20,000) whose kept bits are the same."""
    bits: Annotated[int, Field(ge=1, le=62)]
    """Bits of a hash that are kept."""
    rice: Annotated[int, Field(ge=0, le=48)]
    """Bits of a gap that are written as they are."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """A compact set of cell hashes. Immutable: `plus` makes another."""

    facts: LedgerFacts
    starts: KeyArray
    words: KeyArray

    @classmethod
    def of(cls, hashes: KeyArray, *, capacity: int | None = None, at_once: int = 1 << 25, **about: Any) -> Self:
        """Make a ledger.

        Args:
            hashes: (n,) uint64 from `hash_cells`, in any order; repeated ones count once. May be a memory map.
            capacity: cells that it will hold in the end, where more are to come by `plus`; default: these.
            at_once: hashes sorted in memory at a time, 16 bytes each; more are sorted in ranges.
            about: `kind`, `store`, `id_space` and `genes` of the facts.
        """
        bits = bits_for(len(hashes) if capacity is None else capacity)
        halvings = min(max(0, bits - SPAN), (max(0, len(hashes) - 1) // at_once).bit_length())
        ranges = (_in_range(hashes, k, bits=bits, halvings=halvings) for k in range(1 << halvings))
        return cls._encoded(ranges, n=len(hashes), bits=bits, halvings=halvings, **about)

    @classmethod
    def _encoded(cls, ranges: Iterable[KeyArray], *, n: int, bits: int, halvings: int = 0, **about: Any) -> Self:
        """Of about n positions in 2**halvings ranges, each rising from the first of its range."""
        rice = best_rice(2.0**bits / max(1, n))
        n_cells, starts, words = encode_ranges(ranges, bits=bits - halvings, rice=rice)
        return cls(LedgerFacts(n_cells=n_cells, bits=bits, rice=rice, **about), starts, words)

    def __len__(self) -> int:
        return self.facts.n_cells

    @property
    def false_positive_rate(self) -> float:
        """Probability that a cell which was never put in is found all the same."""
        return len(self) / 2.0**self.facts.bits

    @property
    def nbytes(self) -> int:
        """Bytes of the set, without the facts."""
        return self.starts.nbytes + self.words.nbytes

    def contains(self, hashes: KeyArray) -> BoolArray:
        """Whether each cell was put in. (n,) bool; see `false_positive_rate`."""
        positions = hashes >> np.uint64(64 - self.facts.bits)
        order = np.argsort(positions)
        found = np.empty(len(hashes), np.bool_)
        hits = np.empty(len(hashes), np.bool_)
        find(positions[order], self.starts, self.words, self.facts.rice, hits)
        found[order] = hits
        return found

    def plus(self, hashes: KeyArray) -> Self:
        """The ledger with more cells; it takes 8 bytes a cell of memory while it is made."""
        if not len(hashes):
            return self
        new = hashes >> np.uint64(64 - self.facts.bits)
        about = self.facts.model_dump(include={"kind", "store", "id_space", "genes"})
        old, new = self.positions(), _distinct(new)
        places = np.searchsorted(old, new)
        known = old[np.minimum(places, len(old) - 1)] == new if len(old) else np.zeros(len(new), np.bool_)
        positions = np.insert(old, places[~known], new[~known])
        return self._encoded([positions], n=len(positions), bits=self.facts.bits, **about)

    def positions(self) -> KeyArray:
        """(n,) uint64 what is kept of each hash, rising.

        Raises:
            StoreError: there are not as many as the facts say.
        """
        out = np.empty(len(self), np.uint64)
        if decode(self.starts, self.words, self.facts.rice, out) != len(out):
            raise _damaged("the cells are not as many as it says", where="a ledger")
        return out

    def to_bytes(self) -> bytes:
        """The file's bytes: the same hashes give the same bytes, whatever their order."""
        facts = self.facts.model_dump_json().encode()
        head = MAGIC + struct.pack("<I", len(facts)) + facts
        body = head + self.starts.astype("<u8").tobytes() + self.words.astype("<u8").tobytes()
        return body + xxhash.xxh3_128_digest(body)

    @classmethod
    def from_bytes(cls, raw: bytes, *, where: str) -> Self:
        """Read a file's bytes.

        Raises:
            StoreError: not a ledger, another version, or damaged.
        """
        head = len(MAGIC) + 4
        if raw[: len(MAGIC)] != MAGIC or len(raw) < head + _DIGEST:
            raise _damaged("this is no ledger, or one of another version", where=where)
        if xxhash.xxh3_128_digest(raw[:-_DIGEST]) != raw[-_DIGEST:]:
            raise _damaged("the ledger is damaged: its bytes do not give its own checksum", where=where)
        (size,) = struct.unpack_from("<I", raw, len(MAGIC))
        try:
            facts = LedgerFacts.model_validate_json(raw[head : head + size])
        except ValidationError as error:
            raise _damaged(f"the ledger's facts cannot be read: {error.errors()[0]['msg']}", where=where) from error
        return cls(facts, *_arrays(raw[head + size : -_DIGEST], facts, where=where))

    def save(self, path: Path) -> None:
        """Write the file aside and rename it."""
        aside = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(self.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a ledger: a file, or a checkpoint's folder.

        Raises:
            StoreError: none there, or a damaged one.
        """
        path = Path(path)
        path = path / LEDGER if path.is_dir() else path
        if not path.is_file():
            raise StoreError(
                "there is no ledger", where=str(path), fix="name a file of `scmf-store ledger`, or a checkpoint"
            )
        return cls.from_bytes(path.read_bytes(), where=str(path))


def bits_for(n: int) -> int:
    """Bits of a hash to keep for n cells: as many as give each at most SPREAD positions."""
    return min(62, (max(1, n) * SPREAD).bit_length() - 1)


def best_rice(gap: float) -> int:
    """The split of a gap that takes the fewest bits."""
    return min(range(49), key=lambda rice: bits_of_gap(gap, rice))


def _in_range(hashes: KeyArray, number: int, *, bits: int, halvings: int) -> KeyArray:
    """Distinct positions of the hashes that begin with these bits, rising, counted from the first possible."""
    if halvings == 0:
        return _distinct(hashes >> np.uint64(64 - bits))
    blocks = (hashes[i : i + _SCAN] for i in range(0, len(hashes), _SCAN))
    chosen = np.concatenate([block[block >> np.uint64(64 - halvings) == number] for block in blocks])
    positions = (chosen >> np.uint64(64 - bits)) & np.uint64((1 << (bits - halvings)) - 1)
    return _distinct(positions)


def _distinct(positions: KeyArray) -> KeyArray:
    """Each once, rising. NumPy's `unique` hashes integers first, which takes ten times as long for so many."""
    ordered = np.sort(positions)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def _arrays(raw: bytes, facts: LedgerFacts, *, where: str) -> tuple[KeyArray, KeyArray]:
    n_buckets = 1 << max(0, facts.bits - SPAN)
    if len(raw) % 8 or len(raw) < 8 * (n_buckets + 1):
        raise _damaged("the ledger is cut short", where=where)
    words = np.frombuffer(raw, "<u8").astype(np.uint64)
    starts, words = words[: n_buckets + 1], words[n_buckets + 1 :]
    if starts[0] != 0 or starts[-1] != len(words) or (starts[1:] < starts[:-1]).any():
        raise _damaged("the ledger's buckets do not fit its words", where=where)
    return starts, words


def _damaged(what: str, *, where: str) -> StoreError:
    return StoreError(what, where=where, fix="make it again: scmf-store ledger STORE --out FILE")
