"""Labels of cells from obs. In: a store, its training cells, columns. Out: the class or the number of each cell.

What is learned from the training cells (the classes, the mean and the standard deviation) is found once, written
into the run's configuration, and read from there ever after, so that a head never changes its meaning.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_numeric_dtype

from scmf.core.batch import CellTargets, Microbatch
from scmf.core.errors import ConfigError, StoreError
from scmf.core.near_word import nearest
from scmf.core.text import counted
from scmf.data.drawing import id_chunks
from scmf.data.objective import ClassColumn, LabelColumn, NumberColumn
from scmf.data.obs import read_obs_column
from scmf.data.part import Part
from scmf.data.split import CellSet, refuse_continuous
from scmf.data.store import CellStore

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MOST_CLASSES: Final = 10_000
"""A column with more different values is one of names, not of classes. CELLxGENE's cell types: about 1,000."""
_SHOWN: Final = 8


class Labels(Protocol):
    """Targets of all cells of a store for one objective."""

    @property
    def column(self) -> LabelColumn:
        """Where they come from, and what the training cells have fixed; nothing of it is None."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of them before the run begins."""
        ...

    def of(self, cell_ids: LongArray) -> tuple[npt.NDArray[np.bool_], IntArray | npt.NDArray[np.float32]]:
        """Which of the cells have a label, (k,) bool, and the labels of those."""
        ...


@dataclass(frozen=True, slots=True)
class ClassLabels:
    """The class of every cell."""

    column: ClassColumn
    codes: IntArray
    """(n_cells,) int32; -1 where there is none."""
    notes: tuple[str, ...]

    def of(self, cell_ids: LongArray) -> tuple[npt.NDArray[np.bool_], IntArray]:
        """Which of the cells have a class, (k,) bool, and the classes of those, int32."""
        codes = self.codes[cell_ids]
        has_class = codes >= 0
        return has_class, codes[has_class]


@dataclass(frozen=True, slots=True)
class NumberLabels:
    """The standardised number of every cell."""

    column: NumberColumn
    values: npt.NDArray[np.float32]
    """(n_cells,) float32, in standard deviations from the mean; NaN where there is none."""
    notes: tuple[str, ...]

    def of(self, cell_ids: LongArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Which of the cells have a number, (k,) bool, and the numbers of those, float32."""
        values = self.values[cell_ids]
        has_number = ~np.isnan(values)
        return has_number, values[has_number]


def read_labels(
    store: CellStore, train: CellSet, columns: Mapping[str, LabelColumn], *, decided: bool = False
) -> dict[str, Labels]:
    """Read the targets of every objective, 4 bytes a cell each.

    Args:
        store: the cells.
        train: the training cells, which decide what the columns leave open.
        columns: by the objective's name.
        decided: the columns leave nothing open, and these cells are measured, not learned from: they may be of one
            class, have one number, or no label at all.

    Raises:
        StoreError: obs has no such column.
        ConfigError: the column cannot be learned: one class, no numbers, numbers that are all equal.
    """
    labels: dict[str, Labels] = {}
    for name, column in columns.items():
        _refuse_unknown(store, column.column, name=name)
        if isinstance(column, ClassColumn):
            labels[name] = _read_classes(store, train, name, column, decided=decided)
        else:
            labels[name] = _read_numbers(store, train, name, column, decided=decided)
    return labels


def describe_labels(labels: Mapping[str, Labels]) -> dict[str, str]:
    """What a resumed run must find unchanged of the labels: an entry for each objective, none without labels."""
    return {f"labels of {name}": str(found.column) for name, found in labels.items()}


def with_cell_targets(microbatch: Microbatch, labels: Mapping[str, Labels], *, starts: LongArray) -> Microbatch:
    """The microbatch with the targets of its cells.

    Args:
        microbatch: C cells.
        labels: by the objective's name.
        starts: (C,) int64 first position of each cell.
    """
    if not labels:
        return microbatch
    segments = np.searchsorted(microbatch.cu_seqlens, starts).astype(np.int32)
    targets = {}
    for name, found in labels.items():
        labelled, values = found.of(microbatch.cell_ids)
        targets[name] = CellTargets(segments[labelled], values)
    return replace(microbatch, cell_targets=targets)


def _refuse_unknown(store: CellStore, column: str, *, name: str) -> None:
    known = store.manifest.obs_columns
    if column not in known:
        near = nearest(column, known)
        raise StoreError(
            f"obs has no column {column!r}; it has {', '.join(known) or 'none'}",
            where=f"{store.path}, objective {name}",
            fix=f"did you mean column: {near}?" if near else "name one of these columns",
        )


def _read_classes(store: CellStore, train: CellSet, name: str, asked: ClassColumn, *, decided: bool) -> ClassLabels:
    codes, names = store.obs_groups(asked.column)
    where = f"{store.path}, objective {name}"
    refuse_continuous(names, column=asked.column, where=where, fix="or write kind: regress")
    cells = np.zeros(len(names) + 1, np.int64)
    for ids in id_chunks(train):
        cells += np.bincount(codes[ids] + 1, minlength=len(names) + 1)
    of_training = {label: int(n) for label, n in zip(names, cells[1:], strict=True)}
    found = tuple(label for label, n in of_training.items() if n)
    classes = found if asked.classes is None else asked.classes
    if not decided:
        _refuse_unlearnable(asked, tuple(c for c in classes if of_training.get(c)), found, where=where)
        _refuse_names(asked, classes, n_labelled=int(cells[1:].sum()), where=where)
    number = {label: i for i, label in enumerate(classes)}
    to_class = np.array([number.get(label, -1) for label in names] + [-1], np.int32)  # the last serves code -1
    column = replace(asked, classes=classes)
    return ClassLabels(column, to_class[codes], tuple(_class_notes(name, column, of_training, int(cells[0]))))


def _refuse_unlearnable(asked: ClassColumn, classes: tuple[str, ...], found: tuple[str, ...], *, where: str) -> None:
    """At least two classes, and no more than a head has."""
    column = asked.column
    if len(classes) < 2:
        of_which = "" if asked.classes is None else "of the classes asked for, "
        way_out = f"name another column{'' if len(found) < 2 else ', or classes that cells have: '}"
        raise ConfigError(
            f"{of_which}training cells have {', '.join(map(repr, classes)) or 'none'} in obs column "
            f"{column!r}: with fewer than two there is nothing to tell apart",
            where=where,
            fix=way_out + (", ".join(found[:_SHOWN]) if len(found) > 1 else ""),
        )
    if len(classes) > MOST_CLASSES:
        raise ConfigError(
            f"obs column {column!r} has {len(classes):,} different values among the training cells, and a head has at "
            f"most {MOST_CLASSES:,} classes",
            where=where,
            fix="name a column of labels, or list the classes that matter: classes: [...]",
        )


def _refuse_names(asked: ClassColumn, classes: tuple[str, ...], *, n_labelled: int, where: str) -> None:
    """Not a name for every cell: fewer than two cells a class leave nothing that a cell could share with another."""
    if asked.classes is None and 2 * len(classes) > n_labelled:
        raise ConfigError(
            f"obs column {asked.column!r} has {len(classes):,} different values among {n_labelled:,} training cells: "
            "so many names are no classes",
            where=where,
            fix="name a column of labels; if these are classes, list those that matter: classes: [...]",
        )


def _class_notes(name: str, column: ClassColumn, of_training: Mapping[str, int], missing: int) -> Iterator[str]:
    """How many training cells have a target, and what was asked for and is not there."""
    classes = column.classes or ()
    labelled = sum(of_training.get(label, 0) for label in classes)
    total = sum(of_training.values()) + missing
    yield (
        f"{name}: {counted(len(classes), 'class', 'classes')} of obs column {column.column}; {labelled:,} of {total:,} "
        "training cells have one"
    )
    single = sum(of_training.get(label) == 1 for label in classes)
    if single:
        yield f"{name}: {single:,} of {len(classes):,} classes have one training cell each, and can only be memorised"
    for label in classes:
        if not of_training.get(label):
            near = nearest(label, [other for other, n in of_training.items() if n and other not in classes])
            yield f"{name}: no training cell is {label!r}" + (f"; did you mean {near!r}?" if near else "")


def _read_numbers(store: CellStore, train: CellSet, name: str, asked: NumberColumn, *, decided: bool) -> NumberLabels:
    where = f"{store.path}, objective {name}"
    values = _numbers(store, asked.column, where=where)
    count, mean, sd = _moments(values, train)
    if not decided and (count < 2 or not sd > 0):
        raise ConfigError(
            f"{count:,} training cells have a number in obs column {asked.column!r}"
            + (f", and all are {mean!r}: there is nothing to learn" if count else ""),
            where=where,
            fix=f"name another column; scmf-store info {shlex.quote(str(store.path))} lists them",
        )
    column = replace(asked, mean=mean if asked.mean is None else asked.mean, sd=sd if asked.sd is None else asked.sd)
    values -= column.mean or 0.0
    values /= column.sd or 1.0
    note = (
        f"{name}: obs column {asked.column}, mean {column.mean:.6g}, sd {column.sd:.6g}; {count:,} of {len(train):,} "
    )
    return NumberLabels(column, values.astype(np.float32), (f"{note}training cells have a number",))


def _numbers(store: CellStore, column: str, *, where: str) -> FloatArray:
    """(n_cells,) float64 values of a column, part by part; NaN where a cell or a whole store has none."""
    pieces = [
        _as_numbers(read_obs_column(part.path, column, n_cells=part.n_cells), column, where=where)
        for part in _parts_with(store, column)
    ]
    values: FloatArray = np.concatenate(pieces)
    infinite = np.isinf(values)
    if infinite.any():
        raise ConfigError(
            f"obs column {column!r} is infinite for {counted(int(infinite.sum()), 'cell')}, the first is cell "
            f"{int(infinite.argmax()):,}",
            where=where,
            fix="write a missing value in their place, and convert again; cells without a number have no target",
        )
    return values


def _parts_with(store: CellStore, column: str) -> Iterator[Part]:
    for part in store.parts:
        part.bring_obs(column)
        yield part


def _as_numbers(piece: pd.Series, column: str, *, where: str) -> FloatArray:
    """(n,) float64; a text that is no number is refused, a missing value is NaN."""
    if is_numeric_dtype(piece.dtype):
        return np.asarray(piece.to_numpy(np.float64, na_value=np.nan))
    texts = piece.astype(object)
    numbers = pd.to_numeric(texts, errors="coerce")
    wrong = texts[numbers.isna() & texts.notna()]
    if len(wrong):
        raise ConfigError(
            f"obs column {column!r} holds {str(wrong.iloc[0])!r}, which is no number",
            where=where,
            fix="name a column of numbers, or write kind: classify",
        )
    return np.asarray(numbers.to_numpy(np.float64, na_value=np.nan))


def _moments(values: FloatArray, train: CellSet) -> tuple[int, float, float]:
    """How many training cells have a number, their mean and their standard deviation; in two passes, in float64."""
    count, total = 0, 0.0
    for ids in id_chunks(train):
        known = values[ids][~np.isnan(values[ids])]
        count, total = count + len(known), total + float(known.sum())
    mean = total / count if count else float("nan")
    squares = sum(float(np.nansum(np.square(values[ids] - mean))) for ids in id_chunks(train))
    return count, mean, (squares / count) ** 0.5 if count else float("nan")
