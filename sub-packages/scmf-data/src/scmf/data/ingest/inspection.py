"""Sources, looked at. In: paths and wishes. Out: for each what will be converted, and everything that was found.

Nothing stops at the first fault: whatever can still be looked at is, so that one look names all there is to mend.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from scmf.core.errors import InputError
from scmf.core.text import counted
from scmf.data.ingest.check_names import cell_findings, gene_findings, name_hash, name_hashes
from scmf.data.ingest.check_values import Looked, transform_of, value_findings
from scmf.data.ingest.counts import FAULTS, Choice, choose_counts, elements_with_counts, look
from scmf.data.ingest.findings import Finding, SourcesError, finding_of
from scmf.data.ingest.genes import SourceGenes, check_species, number_genes, species_of
from scmf.data.ingest.known_genes import VocabularyShare, vocabulary_findings, vocabulary_shares
from scmf.data.ingest.mend import Mender
from scmf.data.ingest.plan import Plan, Request, SourcePlan, check_tables, join_obsm, source_genes, source_obsm
from scmf.data.ingest.recognise import open_source
from scmf.data.ingest.source import Matrix, ReadWishes, Source, reading
from scmf.data.ingest.survey import Survey, survey
from scmf.data.manifest import ObsmRecord
from scmf.data.orthologs import release_tables
from scmf.data.progress import Progress

Array = npt.NDArray[Any]
Log = Callable[[str], None]
T = TypeVar("T")

_VALUE_NUMBERS = {number for number, _ in FAULTS.values()}
_TWO = {"human", "mouse"}
"""Species between which orthologs are shipped."""
_ELEMENTS_EXPLAINED = 4
"""Elements of one file whose values are explained when none holds counts."""


@dataclass(slots=True)
class Inspection:
    """One source, looked at."""

    path: Path
    format: str = ""
    matrix: Matrix | None = None
    """The one with the counts, or the first where none has them; None for a source that cannot be opened."""
    seen: Survey | None = None
    """What its cells hold, as far as they could be read."""
    genes: SourceGenes | None = None
    shares: tuple[VocabularyShare, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    names: Array = field(default_factory=lambda: np.empty(0, np.uint64))
    """(cells,) uint64 hashes of the cells' names."""
    plan: SourcePlan | None = None
    """How it will be converted; None when it is refused."""

    @property
    def refused(self) -> bool:
        """Whether there is an error among the findings."""
        return any(f.severity == "error" for f in self.findings)


@dataclass(frozen=True, slots=True)
class Inspections:
    """All sources of a command."""

    sources: tuple[Inspection, ...]
    together: tuple[Finding, ...]
    """What is wrong with the sources as a set."""

    @property
    def findings(self) -> list[Finding]:
        """All of them, source by source, errors first, then by number."""
        order = ("error", "warning", "note")
        groups = [*(tuple(s.findings) for s in self.sources), self.together]
        return [f for group in groups for f in sorted(group, key=lambda f: (order.index(f.severity), f.number))]


def make_plan(request: Request, *, log: Log, scratch: Path) -> Plan:
    """Look at every source before the first byte is written.

    Args:
        request: the sources and wishes.
        log: takes what was found about the sources as a set, when they can be converted.
        scratch: folder in which unpacked text may stay for the conversion.

    Raises:
        InputError: a source that cannot be converted, with its number; `SourcesError` where there is more to mend.
    """
    found = inspect_sources(request, scratch=scratch)
    release_tables()  # what follows has to stay within --memory
    errors = [f for f in found.findings if f.severity == "error"]
    if errors:
        raise SourcesError(errors) if len(errors) > 1 else errors[0].error()
    for finding in found.together:
        log(str(finding))
    plans = tuple(s.plan for s in found.sources if s.plan is not None)
    genes = [p.genes for p in plans]
    species = check_species({str(p.path): p.genes for p in plans})
    join_obsm({str(p.path): p.obsm for p in plans})
    return Plan(plans, number_genes(genes), species, request.command(counts="auto"), found.together)


def inspect_sources(request: Request, *, full: bool = False, scratch: Path | None = None) -> Inspections:
    """Look at every source.

    Args:
        request: the sources and wishes.
        full: look at every value, instead of windows.
        scratch: folder in which unpacked text may stay; None: it is thrown away.
    """
    with tempfile.TemporaryDirectory(prefix="scmf-check-") as folder:
        look_at = _Look(request, full, scratch, Path(folder))
        sources = tuple(look_at.source(path, name) for path, name in zip(request.sources, request.names, strict=True))
    return Inspections(sources, tuple(_together(request, sources)))


@dataclass(frozen=True, slots=True)
class _Look:
    """How sources are looked at."""

    request: Request
    full: bool
    text: Path | None
    """Folder for unpacked text."""
    folder: Path
    """Folder for turning matrices."""

    def source(self, path: Path, name: str) -> Inspection:
        """Everything about one source."""
        found = Inspection(path)
        try:
            wishes = ReadWishes(self.request.options.cells_in, self.text)
            with open_source(path, wishes) as file, reading(path, "its tables and matrices"):
                found.format = file.format
                self._inspect(file, name, found)
        except InputError as error:
            found.findings.append(finding_of(error, file=str(path)))
        return found

    def _inspect(self, file: Source, name: str, found: Inspection) -> None:
        matrices, wish = file.matrices(), self.request.options.counts
        choose = _trying(found, lambda: choose_counts(file, wish=wish, command=self.request.command))
        found.matrix = matrix = choose.matrix if choose else matrices.get(wish, next(iter(matrices.values())))
        check_tables(file, matrix)
        found.genes = _trying(found, lambda: source_genes(file, matrix.element, self.request))
        found.findings[:] = [self._sharper(f, file, matrix) for f in found.findings]
        found.seen = _trying(found, lambda: self._survey(matrix)) or Survey(matrix.n_cells, matrix.n_genes)
        looked = Looked(file, matrix, found.seen, self._mender(file))
        found.names = name_hashes(file.cells_of(matrix.element), full=self.full)
        found.findings += self._values(looked, found, choose)
        found.findings += [*gene_findings(looked, found.genes), *cell_findings(looked, found.names)]
        if any(f.number == "D043" for f in found.findings):  # names of cells are no genes without ids
            found.findings[:] = [f for f in found.findings if f.number != "D010"]
        if found.genes is not None:
            found.shares = vocabulary_shares(found.genes, found.seen.sums, self.request.options.genes.id_space)
            found.findings += vocabulary_findings(looked, found.genes, found.shares)
        if choose is not None and found.genes is not None and not found.refused:
            names = self.request.options.obsm
            obsm = _trying(found, lambda: source_obsm(file, matrix, names))
            found.plan = _source_plan(file, name, choose, found, obsm) if obsm is not None else None

    def _sharper(self, finding: Finding, file: Source, matrix: Matrix) -> Finding:
        """A wish about genes that cannot be met is answered with the command without it, where that works."""
        wish = {"D011": {"column": None}, "D012": {"species": None}}.get(finding.number)
        if wish is None:
            return finding
        other = self.request.changed(**wish)
        try:
            source_genes(file, matrix.element, other)
        except InputError:
            return finding
        return finding.replace(fix=other.command())

    def _survey(self, matrix: Matrix) -> Survey:
        memory, title = self.request.options.memory, f"checking {matrix.path.name}"
        with Progress(title, matrix.n_cells) as progress:
            return survey(matrix, full=self.full, memory=memory, scratch=self.folder, on_cells=progress.advance)

    def _values(self, looked: Looked, found: Inspection, choice: Choice | None) -> list[Finding]:
        """Findings about values; those of the whole look replace that of the first glance at the same fault."""
        glance = {f.number for f in found.findings}
        if "D009" in glance:
            return self._explain(looked)
        if glance & {"D005", "D054"}:  # which matrix is meant is not known
            return []
        whole = [*value_findings(looked), *_no_counts(looked, found.genes)]
        numbers = {f.number for f in whole} & _VALUE_NUMBERS
        found.findings[:] = [f for f in found.findings if f.number not in numbers]
        return [*whole, *self._passed_over(looked, choice)]

    def _passed_over(self, looked: Looked, choice: Choice | None) -> list[Finding]:
        """The note that X is not what is converted."""
        matrices = looked.file.matrices()
        if choice is None or choice.named or choice.matrix.element == "X" or "X" not in matrices:
            return []
        transform = transform_of(self._survey(matrices["X"]))
        why = f"; they are {transform.text}" if transform else ""
        verdict = look(looked.file, matrices["X"])
        what = f"X has {verdict.text}{why}; the counts are taken from {choice.matrix.element}"
        return [Finding("D017", what, str(looked.file.path), "X")]

    def _explain(self, looked: Looked) -> list[Finding]:
        """What was done to the values of each element, when none holds counts."""
        found = []
        for element, matrix in list(looked.file.matrices().items())[:_ELEMENTS_EXPLAINED]:
            seen = looked.seen if element == looked.matrix.element else self._survey(matrix)
            if (transform := transform_of(seen)) is not None:
                here = Looked(looked.file, matrix, seen, looked.mend)
                found.append(here.transform_note(transform))
        return found

    def _mender(self, file: Source) -> Mender:
        return Mender(
            file.path,
            file.format,
            self.request.command,
            lambda element: elements_with_counts(file, but=element),
        )


def _trying(found: Inspection, act: Callable[[], T]) -> T | None:
    """The result, or None and a finding more."""
    try:
        return act()
    except InputError as error:
        found.findings.append(finding_of(error, file=str(found.path)))
        return None


def _no_counts(looked: Looked, genes: SourceGenes | None) -> list[Finding]:
    """That nothing would be kept, where every value was looked at."""
    if genes is None or not looked.seen.complete or looked.seen.faulty:
        return []
    kept = np.array([bool(gene) for gene in genes.ids])
    return [] if looked.seen.sums[kept].any() else [looked.finding("D004", "no kept gene has a count above zero")]


def _source_plan(file: Source, name: str, choice: Choice, found: Inspection, obsm: dict[str, ObsmRecord]) -> SourcePlan:
    matrix, genes = choice.matrix, found.genes
    if genes is None:
        raise TypeError("a source without genes has no plan")
    return SourcePlan(
        path=file.path,
        format=file.format,
        notes=tuple(file.notes(matrix.element)),
        name=name,
        element=matrix.element,
        layout=matrix.layout,
        reason=choice.reason,
        n_cells=matrix.n_cells,
        n_genes=matrix.n_genes,
        n_stored=matrix.n_stored,
        genes=genes,
        findings=tuple(found.findings),
        shares=found.shares,
        obsm=obsm,
    )


def _together(request: Request, sources: Sequence[Inspection]) -> list[Finding]:
    found = [*_named_twice(request), *_shared_names(sources)]
    genes = {str(s.path): s.genes for s in sources if s.genes is not None and not s.refused}
    try:
        check_species(genes)
    except InputError as error:
        several = finding_of(error, file=", ".join(genes))
        found.append(several.replace(fix=_one_species(request, genes)))
    return found


def _one_species(request: Request, genes: Mapping[str, SourceGenes]) -> str:
    """The command that makes one species of them: orthologs where each file has one, else the one with most genes."""
    if all(len(g.species) == 1 for g in genes.values()) and {s for g in genes.values() for s in g.species} == _TWO:
        return request.command(orthologs="human")
    ids = [species_of(gene) for g in genes.values() for gene in g.ids if gene]
    known = [s for s in ("human", "mouse") if s in ids]
    return request.command(species=max(known, key=ids.count)) if known else ""


def _named_twice(request: Request) -> list[Finding]:
    places = [_place(path) for path in request.sources]
    again = [p for k, p in enumerate(request.sources) if places[k] in places[:k]]
    once = list(dict.fromkeys(places))
    kept = [request.sources[places.index(place)] for place in once]
    what = "named more than once: its cells will be in the store as often"
    return [Finding("D049", what, str(path), fix=request.command(sources=tuple(kept))) for path in dict.fromkeys(again)]


def _place(path: Path) -> Path:
    """Where a path leads; pathlib's own way raises for links that lead in circles."""
    return Path(os.path.realpath(path))


def _shared_names(sources: Sequence[Inspection]) -> list[Finding]:
    by_file = {_place(s.path): np.unique(s.names) for s in sources}
    hashes, times = np.unique(np.concatenate([*by_file.values(), np.empty(0, np.uint64)]), return_counts=True)
    shared = hashes[(times > 1) & (hashes != name_hash(""))]
    if not shared.size:
        return []
    files = ", ".join(str(s.path) for s in sources if np.isin(by_file[_place(s.path)], shared).any())
    what = f"{counted(shared.size, 'name')} of cells in more than one of the files"
    return [Finding("D050", what, files, "obs", count=int(shared.size))]
