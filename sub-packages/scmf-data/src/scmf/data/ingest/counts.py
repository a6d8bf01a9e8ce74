"""Which element of a file holds raw counts. In: its matrices and the user's wish. Out: a choice with its reason.

A choice rests on values taken from the start, the middle and the end; conversion then checks every value, and
refuses the file at the first that is no count. So a choice may be refused later, but never silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.core.near_word import nearest
from scmf.data.ingest import kernels
from scmf.data.ingest.blocks import value_type
from scmf.data.ingest.findings import refuse
from scmf.data.ingest.source import Matrix, Source, likelihood, reading

Array = npt.NDArray[Any]

_WINDOWS: Final = 8
_WINDOW_VALUES: Final = 1 << 16

FAULTS: Final = {
    kernels.NEGATIVE: ("D006", "negative values"),
    kernels.NOT_FINITE: ("D007", "values that are not finite"),
    kernels.NOT_INTEGER: ("D008", "values that are not integers"),
    kernels.TOO_LARGE: ("D014", "counts above 4,294,967,295"),
    kernels.BAD_INDEX: ("D015", "gene indices outside the matrix"),
}
"""Kind of fault: refusal number and what to call it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at some values of a matrix says."""

    fault: int
    """Kind of fault, 0 for raw counts."""
    text: str
    """For people: `integers 1 to 523 in 524,288 values looked at`, or the fault and its first value."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The element to convert."""

    matrix: Matrix
    reason: str
    named: bool = False
    """Whether the user has named it."""


def look(file: Source, matrix: Matrix) -> Verdict:
    """Judge a matrix by a few windows of its values."""
    windows = _windows(matrix)
    for first, values in windows:
        bad = int(kernels.first_fault(values))
        if bad >= 0:
            fault = int(kernels.fault_of(np.float64(values[bad])))
            place = file.place(matrix, first + bad)
            return Verdict(fault, f"{FAULTS[fault][1]}, such as {values[bad]:.6g} ({place})")
    n_values = sum(values.size for _, values in windows)
    known = np.concatenate([values[values != 0] for _, values in windows])
    if not known.size:
        return Verdict(0, f"only zeros in {n_values:,} values looked at")
    return Verdict(0, f"integers {known.min():.0f} to {known.max():.0f} in {n_values:,} values looked at")


def choose_counts(file: Source, *, wish: str, command: Callable[..., str]) -> Choice:
    """Find the raw counts.

    Args:
        file: its matrices are tried in the order X, raw.X, layers.
        wish: `auto`, or the element that the user names.
        command: the user's command with other wishes, for messages: `command(counts="raw.X")`.

    Raises:
        InputError: D005 to D009, D013, D014, D054.
    """
    matrices = file.matrices()
    if wish != "auto":
        return _named(file, matrices, wish, command)
    if why := file.must_name():
        raise refuse("D013", why, where=str(file.path), fix=command(counts=next(iter(matrices))))
    verdicts: dict[str, Verdict] = {}
    for element, matrix in matrices.items():
        verdicts[element] = look(file, matrix)
        if not verdicts[element].fault:
            _refuse_rivals(file, matrices, element, command)
            return Choice(matrix, _reason(verdicts))
    if len(verdicts) > 1:
        found = "; ".join(f"{element}: {v.text}" for element, v in verdicts.items())
        raise refuse("D009", f"no element holds raw counts ({found})", where=str(file.path))
    (element, verdict) = next(iter(verdicts.items()))
    raise refuse(
        FAULTS[verdict.fault][0],
        f"{element} holds {verdict.text}; there is no other element",
        where=f"{file.path}: {element}",
        fix="get the file with raw counts from its origin; there is nothing else in this one",
    )


def _refuse_rivals(file: Source, matrices: dict[str, Matrix], chosen: str, command: Callable[..., str]) -> None:
    """Refuse a layer beside which another is as likely: spliced and unspliced are both counts, and neither is all."""
    layer = chosen.rpartition("/")[2]
    if layer == chosen or likelihood(layer) == 0:  # X, raw.X, or named as everybody names it
        return
    likely = [e for e in matrices if "/" in e and likelihood(e.rpartition("/")[2]) == likelihood(layer)]
    rivals = [e for e in likely if e == chosen or not look(file, matrices[e]).fault]
    if len(rivals) == 1:
        return
    what = f"{len(rivals)} layers hold counts, and nothing tells which are those of the cells: {', '.join(rivals)}"
    fullest = max(rivals, key=lambda e: matrices[e].n_stored)
    raise refuse("D054", what, where=str(file.path), fix=command(counts=fullest))


def elements_with_counts(file: Source, *, but: str) -> list[str]:
    """Other elements of the file that look like raw counts, the likeliest first, of equals the one with most values."""
    matrices = file.matrices()
    found = [e for e, matrix in matrices.items() if e != but and not look(file, matrix).fault]
    return sorted(found, key=lambda e: ("/" in e and 1 + likelihood(e.rpartition("/")[2]), -matrices[e].n_stored))


def _named(file: Source, matrices: dict[str, Matrix], wish: str, command: Callable[..., str]) -> Choice:
    if wish not in matrices:
        near = nearest(wish, matrices) or (next(iter(matrices)) if len(matrices) == 1 else None)
        what = f"the file has no {wish}; it has {', '.join(matrices)}"
        raise refuse("D005", what, where=str(file.path), fix=command(counts=near) if near else None)
    verdict = look(file, matrices[wish])
    if verdict.fault:
        others = elements_with_counts(file, but=wish)
        fix = command(counts=others[0]) if others else None
        raise refuse(FAULTS[verdict.fault][0], f"{wish} holds {verdict.text}", where=f"{file.path}: {wish}", fix=fix)
    return Choice(matrices[wish], f"named by --counts; {verdict.text}", named=True)


def _reason(verdicts: dict[str, Verdict]) -> str:
    """Why the last of the verdicts was chosen, and why those before it were not."""
    *passed_over, (_, chosen) = verdicts.items()
    return "; ".join([chosen.text, *(f"{element} has {v.text}" for element, v in passed_over)])


def _windows(matrix: Matrix) -> list[tuple[int, Array]]:
    """Flat position and values of a few windows, spread over the matrix."""
    node = matrix.values
    width = matrix.n_genes if matrix.layout == "dense" else 1
    rows = max(1, _WINDOW_VALUES // max(1, width))
    spread = np.linspace(0, max(0, node.shape[0] - rows), _WINDOWS).astype(np.int64)
    # In a matrix that the windows cover they would overlap, and their values count twice: it is read in order.
    starts = spread if node.shape[0] > _WINDOWS * rows else np.arange(0, max(1, node.shape[0]), rows)
    dtype = value_type(node.dtype)
    with reading(matrix.path, matrix.element):
        return [(int(s) * width, np.ravel(node[s : s + rows]).astype(dtype)) for s in starts]
