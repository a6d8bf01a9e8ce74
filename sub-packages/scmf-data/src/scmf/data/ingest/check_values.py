"""What is wrong with the values of a matrix. In: a survey of its cells. Out: findings, with cells and genes by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.core.text import counted
from scmf.data.ingest import kernels
from scmf.data.ingest import survey_kernel as kinds
from scmf.data.ingest.counts import FAULTS
from scmf.data.ingest.findings import Finding, Offender
from scmf.data.ingest.mend import Mender
from scmf.data.ingest.source import Matrix, Source
from scmf.data.ingest.survey import CAPS, Survey
from scmf.data.ingest.transforms import Transform, recognise

Array = npt.NDArray[Any]

_TELLING: Final = 500
"""Values above zero from which all-ones and common divisors are no chance."""
_TELLING_CELLS: Final = 10
"""Cells from which equal sums are no chance."""
_GENOME: Final = 1_000
"""Columns from which a matrix is of a whole transcriptome, so that nearly empty barcodes are empty droplets."""
_EXACT: Final = {"float16": 2**11, "float32": 2**24}
"""Integers up to which a type is exact."""


@dataclass(frozen=True, slots=True)
class Looked:
    """A matrix that was looked at, and its source."""

    file: Source
    matrix: Matrix
    seen: Survey
    mend: Mender

    @property
    def format(self) -> str:
        """What people call the source: `h5ad`."""
        return self.file.format

    def finding(
        self,
        number: str,
        what: str,
        *,
        kind: int | None = None,
        fix: str = "",
        offenders: tuple[Offender, ...] = (),
    ) -> Finding:
        """A finding of this matrix; its count and offenders are those of a kind of the survey, where one is given."""
        count = None if kind is None else int(self.seen.tally[kind])
        first = offenders if kind is None else self.offenders(kind)
        path, element = str(self.file.path), self.matrix.element
        return Finding(number, what, path, element, fix=fix, count=count, offenders=first)

    def offenders(self, kind: int) -> tuple[Offender, ...]:
        """The first three of a kind, by name."""
        found = self.seen.offenders(kind)
        cells, genes = self.file.cells_of(self.matrix.element), self.file.var(self.matrix.element)
        return tuple(
            Offender(
                cell=str(cells.index(cell, cell + 1)[0]),
                gene=None if column < 0 else _gene_name(genes, column),
                value=None if column < 0 else value,
            )
            for cell, column, value in found
        )

    def transform_note(self, transform: Transform) -> Finding:
        """What was done to the values, with the command that undoes it where that is proved."""
        element = self.matrix.element
        fix = self.mend.undo(element, transform.inverse) if transform.inverse else ""
        return self.finding(transform.number, f"the values of {element} are {transform.text}", fix=fix)

    @property
    def scope(self) -> str:
        """`80 cells`, or `1,024 of 90,000 cells looked at`."""
        if self.seen.complete:
            return counted(self.seen.cells, "cell")
        return f"the {self.seen.cells:,} of {self.seen.n_cells:,} cells looked at"


def value_findings(looked: Looked) -> list[Finding]:
    """Everything that the survey of a matrix has found."""
    found = [*_faults(looked), *_layout(looked), *_limits(looked)]
    if (transform := transform_of(looked.seen)) is not None:
        found.append(looked.transform_note(transform))
    if not looked.seen.faulty:  # what is no count says nothing about cells
        found += [*_cells(looked), *_patterns(looked)]
    return found


def transform_of(seen: Survey) -> Transform | None:
    """What was done to the values, where they are no counts and it can be proved."""
    return recognise([row.values for row in seen.rows]) if seen.tally[kernels.NOT_INTEGER] else None


def _faults(looked: Looked) -> Iterator[Finding]:
    transform = transform_of(looked.seen)
    for kind, (number, name) in FAULTS.items():
        if not looked.seen.tally[kind]:
            continue
        first = ", ".join(map(str, looked.offenders(kind)))
        why = f"; they are {transform.text}" if transform and number == "D008" else ""
        fix = looked.mend.other_element(looked.matrix.element) if number != "D015" else ""
        what = f"{looked.matrix.element} holds {name}, such as {first}{why}"
        yield looked.finding(number, what, kind=kind, fix=fix)


def _cells(looked: Looked) -> Iterator[Finding]:
    empty, few = int(looked.seen.tally[kinds.EMPTY]), int(looked.seen.tally[kinds.FEW])
    if empty + few > looked.seen.cells / 2 and looked.matrix.n_genes >= _GENOME:
        what = f"{empty + few:,} of {looked.scope} have fewer than {kinds.LEAST_GENES} genes above zero"
        yield looked.finding("D025", what, kind=kinds.EMPTY if empty else kinds.FEW)
        return
    if empty:
        what = f"{counted(empty, 'cell')} of {looked.scope} without a count: {_names(looked, kinds.EMPTY)}"
        yield looked.finding("D023", what, kind=kinds.EMPTY, fix=looked.mend.drop_cells(looked.matrix.element, 1))
    if few and looked.matrix.n_genes >= kinds.LEAST_GENES:
        what = (
            f"{counted(few, 'cell')} of {looked.scope} with 1 to {kinds.LEAST_GENES - 1} genes above zero: "
            f"{_names(looked, kinds.FEW)}"
        )
        fix = looked.mend.drop_cells(looked.matrix.element, kinds.LEAST_GENES)
        yield looked.finding("D024", what, kind=kinds.FEW, fix=fix)


def _layout(looked: Looked) -> Iterator[Finding]:
    tally, values = looked.seen.tally, counted(looked.seen.values, "value")
    if tally[kinds.UNSORTED]:
        what = f"the genes of {counted(int(tally[kinds.UNSORTED]), 'cell')} are not in rising order"
        yield looked.finding("D038", f"{what}: {_names(looked, kinds.UNSORTED)}", kind=kinds.UNSORTED)
    if tally[kinds.REPEATED]:
        what = f"{int(tally[kinds.REPEATED]):,} of {values} repeat a gene of the same cell"
        yield looked.finding("D039", f"{what}: {_names(looked, kinds.REPEATED)}", kind=kinds.REPEATED)
    if tally[kinds.ZERO]:
        yield looked.finding("D040", f"{int(tally[kinds.ZERO]):,} of {values} are zeros", kind=kinds.ZERO)
    if tally[kinds.NOISY] and not looked.seen.faulty:
        what = f"{int(tally[kinds.NOISY]):,} of {values} are within float noise of an integer"
        yield looked.finding("D022", f"{what}: {_names(looked, kinds.NOISY)}", kind=kinds.NOISY)
    silent = looked.matrix.n_genes - int((looked.seen.in_cells > 0).sum())
    if silent and looked.seen.complete and not looked.seen.faulty:
        yield looked.finding("D028", f"{counted(silent, 'gene')} of {looked.matrix.n_genes:,} without any count")


def _limits(looked: Looked) -> Iterator[Finding]:
    seen, dtype = looked.seen, looked.matrix.values.dtype
    exact = _EXACT.get(dtype.name, 0)
    if exact and seen.highest >= exact:
        what = f"counts up to {seen.highest:,.0f} in {dtype.name}, which keeps integers up to {exact:,} exactly"
        yield looked.finding("D041", what)
    for cap, (at, below) in zip(CAPS, seen.at_cap, strict=True):
        if seen.highest == cap and at >= 3 and at > below:
            what = f"{int(at):,} values are exactly {cap:,}, {int(below):,} lie closely below and none above"
            yield looked.finding("D042", what)


def _patterns(looked: Looked) -> Iterator[Finding]:
    seen = looked.seen
    above_zero = int(seen.in_cells.sum())
    if above_zero >= _TELLING and seen.highest == 1:
        yield looked.finding("D046", f"all of {above_zero:,} values above zero are 1")
    elif above_zero >= _TELLING and seen.divisor > 1:
        yield looked.finding("D048", f"all of {above_zero:,} values above zero are multiples of {seen.divisor:,}")
    full = seen.cells - int(seen.tally[kinds.EMPTY])
    if full >= _TELLING_CELLS and seen.totals[0] == seen.totals[1] and seen.highest > 1:
        yield looked.finding("D047", f"each of {full:,} cells sums to {seen.totals[0]:,.0f}")


def _names(looked: Looked, kind: int) -> str:
    return ", ".join(map(str, looked.offenders(kind)))


def _gene_name(genes: Any, column: int) -> str:
    return str(genes.index(column, column + 1)[0]) if 0 <= column < len(genes) else f"number {column}"


def share_of(sums: Array, which: Array) -> float:
    """Share of all molecules that is in some columns.

    Args:
        sums: (n_genes,) float64 sums of counts.
        which: (n_genes,) bool.
    """
    everything = float(np.abs(sums).sum())
    return float(np.abs(sums[which]).sum()) / everything if everything else 0.0
