"""What will be converted and how. In: paths and wishes. Out: one plan a source; nothing has been written yet."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scmf.core.errors import legible
from scmf.core.text import counted
from scmf.data.ingest.findings import Finding, refuse
from scmf.data.ingest.genes import GeneWishes, SourceGenes, find_genes
from scmf.data.ingest.known_genes import VocabularyShare
from scmf.data.ingest.making import Making
from scmf.data.ingest.source import Layout, Matrix, Source
from scmf.data.ingest.table import RowsTable
from scmf.data.manifest import ObsmRecord, Species
from scmf.data.obsm import joint_record, record_of


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """The user's wishes."""

    counts: str = "auto"
    """`auto`, X, raw.X or layers/NAME."""
    genes: GeneWishes = field(default_factory=GeneWishes)
    memory: int = 512 << 20
    """Bytes that the process should stay within."""
    cells_per_part: int | None = None
    """None: even parts of at most a million."""
    overwrite: bool = False
    making: Making = field(default_factory=Making)
    gene_report: Path | None = None
    """CSV file to make, with a row a column of every source: its name, its id, and how it was found."""
    cells_in: Literal["rows", "columns"] | None = None
    """Where the cells of a plain table or matrix are; None: found by the genes' names, or refused."""
    obsm: tuple[str, ...] = ()
    """Arrays of obsm to carry over."""

    def flags(self) -> list[str]:
        """The wishes that are not the defaults, as the command spells them."""
        usual, genes = ConvertOptions(), self.genes
        said = [
            ("--gene-column", genes.column, None),
            ("--gene-ids", genes.gene_ids, usual.genes.gene_ids),
            ("--species", genes.species, None),
            ("--gene-table", genes.table, None),
            ("--orthologs", genes.orthologs, None),
            ("--gene-report", self.gene_report, None),
            ("--memory", self.memory, usual.memory),
            ("--cells-per-part", self.cells_per_part, usual.cells_per_part),
            ("--cells-in", self.cells_in, None),
            ("--obsm", ",".join(self.obsm), ""),
        ]
        flags = [text for name, value, default in said if value != default for text in (name, str(value))]
        counts = [] if self.counts == usual.counts else ["--counts", self.counts]
        return [*flags, *self.making.flags(), *(["--overwrite"] if self.overwrite else []), *counts]

    def changed(self, **changes: Any) -> ConvertOptions:
        """A copy with other wishes; those about genes go by their own names (`species`, `column`, `id_space`)."""
        genes = {name: changes.pop(name) for name in list(changes) if hasattr(self.genes, name)}
        return replace(self, genes=replace(self.genes, **genes), **changes)


@dataclass(frozen=True, slots=True)
class Request:
    """What a user has asked for."""

    sources: tuple[Path, ...]
    options: ConvertOptions
    dest: Path | None = None
    """Where the store will be; None when the sources are only checked."""

    @property
    def names(self) -> list[str]:
        """What a store calls the sources: their names, with as many of their folders as tell them apart."""
        paths = [p.absolute().parts for p in self.sources]
        names = ["/".join(parts) for parts in paths]
        for n in range(max(map(len, paths), default=0), 0, -1):
            shared = Counter(parts[-n:] for parts in set(paths))
            for k, parts in enumerate(paths):
                if shared[parts[-n:]] == 1:
                    names[k] = "/".join(parts[-n:])
        return names

    def changed(self, **changes: Any) -> Request:
        """The same with other wishes; see `ConvertOptions.changed`."""
        return replace(self, options=self.options.changed(**changes))

    def converting(self, dest: str) -> Request:
        """The same for the command that converts."""
        return replace(self, dest=Path(dest))

    def command(self, *, sources: tuple[Path, ...] | None = None, **changes: Any) -> str:
        """The user's command for a shell, with other sources or wishes."""
        verb = ["check"] if self.dest is None else ["convert"]
        dest = [] if self.dest is None else ["--dest", str(self.dest)]
        words = [*verb, *map(str, sources or self.sources), *dest, *self.options.changed(**changes).flags()]
        return shlex.join(["scmf-store", *words])


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """One source, looked at."""

    path: Path
    format: str
    """`h5ad`, `10x h5`, `loom` ..."""
    notes: tuple[str, ...]
    """What the reader has to say."""
    name: str
    """What the store calls it: the file's name, with as many folders as tell it from others of that name."""
    element: str
    layout: Layout
    reason: str
    """Why this element."""
    n_cells: int
    n_genes: int
    n_stored: int
    """Values stored in the source; all of them in a dense one."""
    genes: SourceGenes
    findings: tuple[Finding, ...] = ()
    """Warnings and notes; an error leaves no plan."""
    shares: tuple[VocabularyShare, ...] = ()
    """What the shipped vocabularies know of it."""
    obsm: dict[str, ObsmRecord] = field(default_factory=dict)
    """Arrays beside obs that are carried over."""

    def lines(self) -> list[str]:
        """What was chosen and why, and what was found, for people."""
        notes = [f"  note:   SCMF-{f.number}: {legible(f.what)}" for f in self.findings if f.severity == "note"]
        return [*self.facts(), *notes, *(str(f) for f in self.findings if f.severity == "warning")]

    def facts(self) -> list[str]:
        """What was chosen and why."""
        genes = self.genes
        kept = sum(bool(i) for i in genes.ids)
        notes = [f"{kept:,} of {self.n_genes:,} columns have an id"]
        if kept - len(set(genes.ids) - {""}):
            notes.append(f"{kept - len(set(genes.ids) - {''}):,} repeat an id and are added up")
        if genes.versions_stripped:
            notes.append(f"{genes.versions_stripped:,} versions stripped")
        if genes.other_species:
            notes.append(f"{genes.other_species:,} of another species dropped")
        if genes.other_features:
            notes.append(f"{genes.other_features:,} are no genes and dropped")
        shape = f"{counted(self.n_cells, 'cell')} x {counted(self.n_genes, 'column')}"
        lines = [
            f"{self.path}: {self.format}, {shape}, {self.layout}",
            *(f"  note:   {note}" for note in self.notes),
            f"  counts: {self.element} ({self.reason})",
            f"  genes:  var column {genes.column}; {'; '.join(notes)}",
            *(f"  genes:  {line}" for line in genes.lines()),
            *(f"  tokens: {share}" for share in self.shares),
        ]
        return list(map(legible, lines))


@dataclass(frozen=True, slots=True)
class Plan:
    """All sources, and what they have in common."""

    sources: tuple[SourcePlan, ...]
    gene_numbers: dict[str, int]
    """Store gene number by id."""
    species: Species | None
    command: str
    """The conversion as a command, for messages."""
    together: tuple[Finding, ...] = ()
    """Warnings and notes about the sources as a set."""

    @property
    def n_cells(self) -> int:
        """Cells of all sources."""
        return sum(s.n_cells for s in self.sources)

    @property
    def obsm(self) -> dict[str, ObsmRecord]:
        """Arrays beside obs in the types that hold those of all sources.

        Raises:
            InputError: D065, arrays of different widths.
        """
        return join_obsm({str(s.path): s.obsm for s in self.sources})


def source_obsm(file: Source, matrix: Matrix, names: tuple[str, ...]) -> dict[str, ObsmRecord]:
    """The arrays of obsm that are asked for; InputError D065 for one that is missing or does not fit."""
    known = file.obsm() if names else {}
    found = {}
    for name in names:
        where = f"{file.path}: obsm"
        if name not in known:
            what = f"there is no array {name!r}; there are {', '.join(known) or 'none'}"
            raise refuse("D065", what, where=where, fix="" if known else "leave out --obsm")
        node = known[name]
        if node.shape[0] != matrix.n_cells or node.dtype.kind not in "fiub":
            what = f"{name} is {node.shape} {node.dtype} for {matrix.n_cells:,} cells"
            raise refuse("D065", what, where=where, fix="leave it out of --obsm")
        found[name] = record_of(int(node.shape[1]), np.dtype(node.dtype))
    return found


def join_obsm(sources: dict[str, dict[str, ObsmRecord]]) -> dict[str, ObsmRecord]:
    """How the arrays of several sources are kept as one; InputError D065 when their widths differ."""
    joint = {}
    for name in next(iter(sources.values())):
        record = joint_record([arrays[name] for arrays in sources.values()])
        if record is None:
            widths = ", ".join(f"{path}: {arrays[name].width}" for path, arrays in sources.items())
            raise refuse("D065", f"obsm {name} has different widths", where=widths, fix="leave it out of --obsm")
        joint[name] = record
    return joint


def check_tables(file: Source, matrix: Matrix) -> None:
    """Refuse a matrix that does not fit its tables, or is empty."""
    if not matrix.n_cells or not matrix.n_genes:
        raise refuse("D004", f"the matrix has {matrix.n_cells} cells and {matrix.n_genes} genes", where=matrix.where)
    n_obs, n_var = len(file.cells_of(matrix.element)), len(file.var(matrix.element))
    if (n_obs, n_var) != (matrix.n_cells, matrix.n_genes):
        what = f"obs has {n_obs:,} rows and var {n_var:,}, the matrix is {matrix.n_cells:,} x {matrix.n_genes:,}"
        what += "; it is transposed" if (n_var, n_obs) == (matrix.n_cells, matrix.n_genes) else ""
        raise refuse("D003", what, where=matrix.where)
    file.obs_rows(0, 1, element=matrix.element)  # better now than after an hour


def source_genes(file: Source, element: str, request: Request) -> SourceGenes:
    """Genes of the matrix's columns; those that are no genes do not take part in the search for ids.

    Raises:
        InputError: D010 to D013.
    """
    genes = _find(file, element, request)
    if not any(genes.ids):
        what = f"none of the {counted(len(genes.ids), 'column')} has an id"
        raise refuse("D012", what, where=f"{file.path}: var")
    return genes


def _find(file: Source, element: str, request: Request) -> SourceGenes:
    var, kept, wishes = file.var(element), file.kept_columns(element), request.options.genes
    where, command = f"{file.path}: var of {element}", request.command()
    if kept is None:
        return find_genes(var, wishes, where=where, command=command)
    return find_genes(RowsTable(var, kept), wishes, where=where, command=command).among(kept)
