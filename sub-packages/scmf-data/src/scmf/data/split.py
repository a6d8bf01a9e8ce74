"""Which cells train, validate and test. In: a store and two shares. Out: three sets of cells that never meet.

By hash, a set is a range of a keyed permutation of all cells: exact shares, O(1) memory. By a column of obs,
whole groups are held out, so that no donor (or batch, or study) is on both sides; a set is then kept as the
runs of consecutive cells that belong to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from scmf.core.errors import ConfigError, StoreError
from scmf.core.random import derive_seed, stream
from scmf.data.order import permute, unpermute
from scmf.data.store import CellStore

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Resolution of the choice of groups: sums are exact up to this many cells, else to one part in this many.
SUM_STEPS = 1_000_000


class CellSet(Protocol):
    """A fixed set of cells with numbered places."""

    def __len__(self) -> int:
        """Number of cells."""
        ...

    def take(self, places: LongArray) -> LongArray:
        """Ids of the cells at these places, each in 0..len-1. (k,) int64."""
        ...

    def contains(self, cell_ids: LongArray) -> BoolArray:
        """Whether each cell belongs to the set. (k,) bool."""
        ...


@dataclass(frozen=True, slots=True)
class Splits:
    """The three sets; together they are all cells of the store."""

    train: CellSet
    validation: CellSet
    test: CellSet
    held_out: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Names of the groups of validation and of test; empty where cells are drawn by hash."""
    asked: tuple[float, float] | None = None
    """Shares of validation and of test that were asked for; None where a named split says which cells."""

    def __str__(self) -> str:
        """What is held out, and how that compares with what was asked for: groups are whole, so it can differ."""
        return "; ".join(
            self._describe(name, number)
            for number, name in enumerate(("validation", "test"))
            if len((self.validation, self.test)[number])
        )

    def _describe(self, name: str, number: int) -> str:
        held, groups = len((self.validation, self.test)[number]), self.held_out[number]
        total = len(self.train) + len(self.validation) + len(self.test)
        asked = "" if self.asked is None else f", {self.asked[number]:.1%} asked"
        shown = ", ".join(groups[:5]) + (", ..." if len(groups) > 5 else "")
        of = f" of {len(groups)} group{'s' * (len(groups) > 1)} ({shown})" if groups else ""
        return f"{name} {held:,} cells{of}: {held / total:.1%} of all{asked}"


@dataclass(frozen=True, slots=True)
class HashSet:
    """The cells that stand at `first` .. `first + size - 1` of a keyed permutation of all cells."""

    n_cells: int
    key: int
    first: int
    size: int

    def __len__(self) -> int:
        return self.size

    def take(self, places: LongArray) -> LongArray:
        """Ids of the cells at these places. (k,) int64."""
        _check_places(places, self.size)
        return permute(np.asarray(places) + self.first, n=self.n_cells, key=self.key)

    def contains(self, cell_ids: LongArray) -> BoolArray:
        """Whether each cell belongs to the set. (k,) bool."""
        stands = unpermute(cell_ids, n=self.n_cells, key=self.key)
        return (stands >= self.first) & (stands < self.first + self.size)


@dataclass(frozen=True, slots=True)
class RunSet:
    """Cells kept as runs of consecutive ids: a few numbers a run, whatever its length."""

    starts: LongArray
    """(runs,) int64 first id of each run, rising."""
    places: LongArray
    """(runs + 1,) int64 place of the first cell of each run; the last is the number of cells."""

    @classmethod
    def of(cls, member: BoolArray) -> Self:
        """The cells at which `member`, (n_cells,) bool, is true."""
        edges = np.flatnonzero(np.diff(member, prepend=False, append=False)).reshape(-1, 2)
        places = np.concatenate([np.zeros(1, np.int64), np.cumsum(edges[:, 1] - edges[:, 0])])
        return cls(np.ascontiguousarray(edges[:, 0]), places)

    def __len__(self) -> int:
        return int(self.places[-1])

    def take(self, places: LongArray) -> LongArray:
        """Ids of the cells at these places. (k,) int64."""
        _check_places(places, len(self))
        run = np.searchsorted(self.places, places, side="right") - 1
        return self.starts[run] + (places - self.places[run])

    def contains(self, cell_ids: LongArray) -> BoolArray:
        """Whether each cell belongs to the set. (k,) bool."""
        if len(self) == 0:
            return np.zeros(len(cell_ids), np.bool_)
        run = np.searchsorted(self.starts, cell_ids, side="right") - 1
        return (run >= 0) & (cell_ids - self.starts[run] < np.diff(self.places)[run])


def split_cells(store: CellStore, *, by: str | None, validation: float, test: float, seed: int) -> Splits:
    """Divide the cells of a store.

    Args:
        store: the cells.
        by: column of obs whose groups stay whole, or None to draw single cells.
        validation: share of the cells for validation, 0 for none.
        test: share of the cells for the final test, 0 for none.
        seed: the run's seed; the division depends on it, the store and the arguments alone.

    Raises:
        ConfigError: nothing would be left to train on, or there are too few groups.
        StoreError: obs has no such column.
    """
    shares = (validation, test)
    if by is None:
        return _by_hash(len(store), shares=shares, key=derive_seed(seed, "split"))
    codes, names = store.obs_groups(by)
    refuse_continuous(names, column=by, where="data.split.by", fix="or null to draw single cells by hash")
    return _by_group(codes, names, shares=shares, by=by, seed=seed)


def named_split(store: CellStore, name: str) -> Splits:
    """The split of this name that travels with the store. Costs 1 byte a cell while it is made.

    Raises:
        StoreError: no such split, or one of its rules does not fit the store.
        ConfigError: it leaves nothing to train on.
    """
    splits = named_sets(store, name, key="data.split.name")
    if not len(splits.train):
        raise ConfigError(
            f"the split {name!r} has no training cells",
            where=f"{store.path}, data.split.name",
            fix="name another split of the store",
        )
    return splits


def named_sets(store: CellStore, name: str, *, key: str) -> Splits:
    """The same, whether or not it has training cells.

    Args:
        store: the cells.
        name: of the split.
        key: of the configuration, for the message.

    Raises:
        StoreError: no such split, one of its rules does not fit the store, or a cell is in two of its sets.
    """
    from scmf.data.where import select_any

    found = [member.manifest.splits.get(name) for member in store.members]
    if any(split is None for split in found):
        raise StoreError(
            f"the store has no split named {name!r}; it has {', '.join(store.manifest.splits) or 'none'}",
            where=f"{store.path}, {key}",
            fix="name one of these, or write data.split: {by: COLUMN} to hold out whole groups",
        )
    chosen = [
        np.concatenate([select_any(m, getattr(s, kind)) for m, s in zip(store.members, found, strict=True)])
        for kind in ("train", "validation", "test")
    ]
    twice = (chosen[0] & (chosen[1] | chosen[2])) | (chosen[1] & chosen[2])
    if twice.any():  # not when it was written; but cells may have been added since
        raise StoreError(
            f"{int(twice.sum()):,} cells are in more than one set of the split {name!r}; the first is cell "
            f"{int(twice.argmax()):,}",
            where=f"{store.path}, {key}",
            fix="write it again, with rules that exclude each other: scmf-store name-split "
            f"{quote(str(store.path))} {quote(name)} --train RULE --validation RULE",
        )
    train, validation, test = map(RunSet.of, chosen)
    return Splits(train=train, validation=validation, test=test)


def describe_named(store: CellStore, name: str) -> str:
    """The rules of a named split, for a run's identity: the same name may hold other rules later."""
    return " + ".join(str(member.manifest.splits[name].model_dump(mode="json")) for member in store.members)


def refuse_continuous(names: tuple[str, ...], *, column: str, where: str, fix: str) -> None:
    """A column of measurements has no groups: ConfigError with three of its values.

    Args:
        names: the different values of the column.
        column: of obs.
        where: the key of the configuration.
        fix: what else could be written.
    """
    numbers = [_number(name) for name in names]
    if len(names) > 2 and all(n is not None for n in numbers) and any(n != int(n) for n in numbers if n is not None):
        shown = ", ".join(names[:3])
        raise ConfigError(
            f"obs column {column!r} holds {len(names):,} different measurements ({shown}, ...) and no groups",
            where=where,
            fix=f"name a column of labels, such as the donor, {fix}",
        )


def _number(text: str) -> float | None:
    """The finite number that a text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _by_hash(n_cells: int, *, shares: tuple[float, float], key: int) -> Splits:
    sizes = [max(1, round(share * n_cells)) if share > 0 else 0 for share in shares]
    if sum(sizes) >= n_cells:
        raise ConfigError(
            f"validation and test would take {sum(sizes):,} of {n_cells:,} cells and leave none to train on",
            where="data.split",
            fix="make data.split.validation and data.split.test smaller, or use more cells",
        )
    first = (0, sizes[0], sum(sizes))
    sets = [
        HashSet(n_cells, key, start, size) for start, size in zip(first, [*sizes, n_cells - sum(sizes)], strict=True)
    ]
    return Splits(train=sets[2], validation=sets[0], test=sets[1], asked=shares)


def _by_group(codes: IntArray, names: tuple[str, ...], *, shares: tuple[float, float], by: str, seed: int) -> Splits:
    # Cells without a label may be of any group: together they are one group more.
    if (codes < 0).any():
        codes = np.where(codes < 0, np.int32(len(names)), codes)
    sizes = _count(codes, len(names) + 1)
    names = (*names, "(missing)")
    present = np.flatnonzero(sizes)
    wanted = 1 + sum(share > 0 for share in shares)
    if len(present) > max(100, len(codes) // 2):
        raise ConfigError(
            f"obs column {by!r} has {len(present):,} groups for {len(codes):,} cells, nearly one for each",
            where="data.split.by",
            fix="name a column with fewer groups, such as the donor, or null to draw single cells by hash",
        )
    if len(present) < wanted:
        raise ConfigError(
            f"obs column {by!r} has {len(present)} group(s), but {wanted} sets are to be made of whole groups",
            where="data.split.by",
            fix="name a column with more groups, or null to draw single cells by hash",
        )
    free = stream(seed, "split/groups").permutation(present)
    chosen: list[IntArray] = []
    for i, share in enumerate(shares):
        # The sets still to be filled, training included, need one group each.
        spare = len(free) - sum(later > 0 for later in shares[i + 1 :]) - 1
        picked = _nearest_sum(sizes[free], target=share * len(codes), at_most=spare) if share > 0 else []
        chosen.append(free[picked])
        free = np.delete(free, picked)
    sets = [RunSet.of(np.isin(np.arange(len(names)), groups)[codes]) for groups in (free, *chosen)]
    held_out = tuple(tuple(sorted(names[g] for g in groups)) for groups in chosen)
    return Splits(train=sets[0], validation=sets[1], test=sets[2], held_out=(held_out[0], held_out[1]), asked=shares)


def _count(codes: IntArray, n: int) -> LongArray:
    """Cells of each group, (n,) int64; a million at a time, because numpy counts in copies of 8 bytes a cell."""
    counts = np.zeros(n, np.int64)
    for start in range(0, len(codes), 1 << 20):
        counts += np.bincount(codes[start : start + (1 << 20)], minlength=n)
    return counts


def _nearest_sum(sizes: LongArray, *, target: float, at_most: int) -> list[int]:
    """Groups, at least one and at most `at_most`, whose sizes sum to as near the target as any choice can.

    Dynamic programming over sums: `last[s]` is the group that first reached s, so every s can be traced back
    through groups before it. Among equal choices the earlier groups win. A sum is kept as it was first reached, not
    with the fewest groups, so where more than half of the cells are asked for and `at_most` is short, a nearer choice
    can be missed.
    """
    unit = max(1, -(-int(sizes.sum()) // SUM_STEPS))
    steps = np.maximum(1, np.rint(sizes / unit)).astype(np.int64)
    top = int(max(2 * target / unit, steps.min())) + 1
    goal = max(1, round(target / unit))
    last = np.full(top + 1, -1, np.int64)
    count = np.full(top + 1, len(sizes) + 1, np.int64)
    count[0] = 0
    for group, step in enumerate(steps):
        if step > top:
            continue
        reached = (count[:-step] < at_most) & (last[step:] < 0)
        new = np.flatnonzero(reached) + step
        last[new] = group
        count[new] = count[new - step] + 1
        if last[goal] >= 0:
            break  # no other sum is nearer
    sums = np.flatnonzero(last >= 0)
    total = int(sums[np.abs(sums - target / unit).argmin()])
    picked: list[int] = []
    while total > 0:
        picked.append(int(last[total]))
        total -= int(steps[picked[-1]])
    return picked


def _check_places(places: LongArray, size: int) -> None:
    if len(places) and (places.min() < 0 or places.max() >= size):
        raise IndexError(f"places {places.min()}..{places.max()} are not all in 0..{size - 1}")
