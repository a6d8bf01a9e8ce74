"""What was found in a source. In: a number and what was seen. Out: a Finding, or the error that refuses."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scmf.core.errors import InputError, ScmfError, legible
from scmf.core.near_path import correction
from scmf.data.ingest.finding_table import FINDINGS, Kind, Severity

__all__ = ["FINDINGS", "Finding", "Kind", "Offender", "Severity", "SourcesError", "finding_of", "missing", "refuse"]


@dataclass(frozen=True, slots=True)
class Offender:
    """A cell, a gene, or a value with both, by name."""

    cell: str | None = None
    gene: str | None = None
    value: float | None = None

    def as_dict(self) -> dict[str, str | float | None]:
        """The offender as JSON holds it; NaN and infinity, which it cannot, are texts."""
        value = self.value if self.value is None or math.isfinite(self.value) else str(self.value)
        return {"cell": self.cell, "gene": self.gene, "value": value}

    def __str__(self) -> str:
        place = [f"cell {self.cell}"] if self.cell is not None else []
        place += [f"gene {self.gene}"] if self.gene is not None else []
        return f"{self.value:.6g} ({', '.join(place)})" if self.value is not None else ", ".join(place)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found in one source."""

    number: str
    """Key of the table: `D010`."""
    what: str
    file: str
    element: str = ""
    """X, raw.X, layers/NAME, obs or var; "" for the file as a whole."""
    fix: str = ""
    """The exact command or flag where there is one; "" for the table's."""
    count: int | None = None
    """Cells, genes or values that it concerns, where they were counted."""
    offenders: tuple[Offender, ...] = field(default=())
    """The first three."""

    @property
    def severity(self) -> Severity:
        """The table's."""
        return FINDINGS[self.number].severity

    @property
    def mend(self) -> str:
        """What to do about it."""
        return self.fix or FINDINGS[self.number].fix

    @property
    def where(self) -> str:
        """File and element, for messages."""
        return f"{self.file}: {self.element}" if self.element else self.file

    def __str__(self) -> str:
        what, where, fix = map(legible, (self.what, self.where, self.mend))
        return f"{self.severity}: SCMF-{self.number}: {what}\n  where: {where}\n  fix:   {fix}"

    def replace(self, **changes: Any) -> Finding:
        """A changed copy."""
        return replace(self, **changes)

    def error(self) -> InputError:
        """The error that refuses the source."""
        return refuse(self.number, self.what, where=self.where, fix=self.fix or None)

    def record(self) -> dict[str, Any]:
        """What the manifest of a store keeps of it."""
        shown = self.as_dict()
        return {key: shown[key] for key in ("number", "severity", "what", "element", "count")}

    def as_dict(self) -> dict[str, Any]:
        """The finding as `check --json` writes it."""
        return {
            "number": f"SCMF-{self.number}",
            "severity": self.severity,
            "what": self.what,
            "file": self.file,
            "element": self.element,
            "count": self.count,
            "offenders": [o.as_dict() for o in self.offenders],
            "fix": self.mend,
        }


class SourcesError(InputError):
    """All errors of a command's sources, three lines each; in other respects the first of them."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        first = findings[0].error()
        super().__init__(first.what, where=first.where, fix=first.fix)
        self.findings = tuple(findings)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *map(str, self.findings[1:])])

    def __reduce__(self) -> tuple[type[SourcesError], tuple[Sequence[Finding]]]:
        return type(self), (self.findings,)


def missing(path: Path) -> InputError:
    """The refusal of a path that is not there, by what it is instead: a dead link, an address, or a typing error."""
    if path.is_symlink():
        what, fix = f"a link to {path.readlink()}, where there is nothing", "bring back the file, or name its new place"
    elif (address := re.match(r"^(\w+):/+(.+)", str(path))) is not None:
        scheme, rest = address.groups()
        get = f": curl -LO {shlex.quote(f'{scheme}://{rest}')}" if scheme in {"http", "https", "ftp"} else ""
        what, fix = "an address, and sources are files and folders", f"download it, and name what has come{get}"
    else:
        what, fix = "there is no such file", correction(path)
    return refuse("D001", what, where=str(path), fix=fix)


def refuse(number: str, what: str, *, where: str, fix: str | None = None) -> InputError:
    """Error with a stable number; `fix` defaults to the table's."""
    return InputError(f"SCMF-{number}: {what}", where=where, fix=fix or FINDINGS[number].fix)


def finding_of(error: ScmfError, *, file: str) -> Finding:
    """The finding that an error of a reader stands for.

    Raises:
        ScmfError: the error itself, when it has no number of the table.
    """
    match = re.match(r"SCMF-(D\d{3}): (.*)", error.what, re.DOTALL)
    if match is None or match[1] not in FINDINGS:
        raise error
    element = error.where.removeprefix(file).removeprefix(": ") if error.where.startswith(file) else ""
    fix = "" if error.fix == FINDINGS[match[1]].fix else error.fix
    return Finding(match[1], match[2], file, element, fix=fix)
