"""Which element of a file holds raw counts. In: its matrices and the user's wish. Out: a choice with its reason.

A choice rests on values taken from the start, the middle and the end; conversion then checks every value, and
refuses the file at the first that is no count. So a choice may be refused later, but never silently wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.data.ingest import kernels
from scmf.data.ingest.blocks import value_type
from scmf.data.ingest.h5ad import Matrix, reading
from scmf.data.ingest.refusals import refuse

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


def look(matrix: Matrix) -> Verdict:
    """Judge a matrix by a few windows of its values."""
    values = _look_at(matrix)
    bad = int(kernels.first_fault(values))
    if bad >= 0:
        fault = int(kernels.fault_of(np.float64(values[bad])))
        return Verdict(fault, f"{FAULTS[fault][1]}, such as {values[bad]:.6g}")
    known = values[values != 0]
    if not known.size:
        return Verdict(0, f"only zeros in {values.size:,} values looked at")
    return Verdict(0, f"integers {known.min():.0f} to {known.max():.0f} in {values.size:,} values looked at")


def choose_counts(matrices: dict[str, Matrix], *, wish: str, command: str) -> Choice:
    """Find the raw counts.

    Args:
        matrices: of one file, by element, in the order of preference.
        wish: `auto`, or the element that the user names.
        command: the conversion as a command, for messages: `scmf-store convert SRC --dest DIR`.

    Raises:
        InputError: D005 to D009, D014.
    """
    if wish != "auto":
        return _named(matrices, wish, command)
    verdicts: dict[str, Verdict] = {}
    for element, matrix in matrices.items():
        verdicts[element] = look(matrix)
        if not verdicts[element].fault:
            return Choice(matrix, _reason(verdicts))
    where = next(iter(matrices.values())).node.file.filename
    if len(verdicts) == 1:
        (element, verdict) = next(iter(verdicts.items()))
        number = FAULTS[verdict.fault][0]
        raise refuse(
            number,
            f"{element} holds {verdict.text}; there is no other element",
            where=f"{where}: {element}",
            fix="get the file with raw counts from its origin; there is nothing else in this one",
        )
    found = "; ".join(f"{element}: {v.text}" for element, v in verdicts.items())
    raise refuse("D009", f"no element holds raw counts ({found})", where=where)


def _named(matrices: dict[str, Matrix], wish: str, command: str) -> Choice:
    where = next(iter(matrices.values())).node.file.filename
    if wish not in matrices:
        raise refuse("D005", f"the file has no {wish}; it has {', '.join(matrices)}", where=where)
    verdict = look(matrices[wish])
    if verdict.fault:
        others = [e for e, m in matrices.items() if e != wish and not look(m).fault]
        fix = f"{command} --counts {others[0]}" if others else None
        raise refuse(FAULTS[verdict.fault][0], f"{wish} holds {verdict.text}", where=f"{where}: {wish}", fix=fix)
    return Choice(matrices[wish], f"named by --counts; {verdict.text}")


def _reason(verdicts: dict[str, Verdict]) -> str:
    """Why the last of the verdicts was chosen, and why those before it were not."""
    *passed_over, (_, chosen) = verdicts.items()
    return "; ".join([chosen.text, *(f"{element} has {v.text}" for element, v in passed_over)])


def _look_at(matrix: Matrix) -> Array:
    """Values of a few windows, spread over the matrix, as one array."""
    node = matrix.values
    width = matrix.n_genes if node.ndim == 2 else 1
    rows = max(1, _WINDOW_VALUES // max(1, width))
    starts = np.unique(np.linspace(0, max(0, node.shape[0] - rows), _WINDOWS).astype(np.int64))
    with reading(node.file.filename, matrix.element):
        windows = [np.ravel(node[s : s + rows]) for s in starts]
    return np.concatenate([np.empty(0, value_type(node.dtype)), *windows], dtype=value_type(node.dtype))
