"""What will be converted and how. In: paths and wishes. Out: one plan a source; nothing has been written yet."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scmf.data.ingest.counts import choose_counts
from scmf.data.ingest.genes import GeneWishes, SourceGenes, check_species, find_genes, number_genes
from scmf.data.ingest.refusals import refuse
from scmf.data.ingest.source import Layout, Matrix, ReadWishes, Source, open_source, reading
from scmf.data.ingest.table import RowsTable
from scmf.data.manifest import Species


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """The user's wishes."""

    counts: str = "auto"
    """`auto`, X, raw.X or layers/NAME."""
    genes: GeneWishes = field(default_factory=GeneWishes)
    memory: int = 512 << 20
    """Bytes that the process should stay within."""
    cells_per_part: int = 1_000_000
    overwrite: bool = False
    cells_in: Literal["rows", "columns"] | None = None
    """Where the cells of a plain table or matrix are; None: found by the genes' names, or refused."""
    obsm: tuple[str, ...] = ()
    """Arrays of obsm to carry over."""

    def flags(self) -> list[str]:
        """The wishes that are not the defaults, but for `--counts`, as the command spells them."""
        usual, genes = ConvertOptions(), self.genes
        said = [
            ("--gene-column", genes.column, None),
            ("--gene-ids", genes.id_space, usual.genes.id_space),
            ("--species", genes.species, None),
            ("--memory", self.memory, usual.memory),
            ("--cells-per-part", self.cells_per_part, usual.cells_per_part),
            ("--cells-in", self.cells_in, None),
            ("--obsm", ",".join(self.obsm), ""),
        ]
        flags = [text for name, value, default in said if value != default for text in (name, str(value))]
        return [*flags, *(["--overwrite"] if self.overwrite else [])]


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """One source, looked at."""

    path: Path
    format: str
    """`h5ad`, `10x h5`, `loom` ..."""
    notes: tuple[str, ...]
    """What the reader has to say."""
    name: str
    """What the store calls it: the file's name, with its folder where two files share a name."""
    element: str
    layout: Layout
    reason: str
    """Why this element."""
    n_cells: int
    n_genes: int
    genes: SourceGenes

    def lines(self) -> list[str]:
        """What was chosen and why, for people."""
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
        return [
            f"{self.path}: {self.format}, {self.n_cells:,} cells x {self.n_genes:,} columns, {self.layout}",
            *(f"  note:   {note}" for note in self.notes),
            f"  counts: {self.element} ({self.reason})",
            f"  genes:  var column {genes.column}; {'; '.join(notes)}",
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """All sources, and what they have in common."""

    sources: tuple[SourcePlan, ...]
    gene_numbers: dict[str, int]
    """Store gene number by id."""
    species: Species | None
    command: str
    """The conversion as a command, for messages."""

    @property
    def n_cells(self) -> int:
        """Cells of all sources."""
        return sum(s.n_cells for s in self.sources)


def make_plan(sources: Sequence[Path], dest: Path, options: ConvertOptions, *, scratch: Path | None = None) -> Plan:
    """Look at every source before the first byte is written.

    Args:
        sources: the paths.
        dest: where the store will be.
        options: the user's wishes.
        scratch: folder in which unpacked text may stay for the conversion; None: unpacked text is thrown away.

    Raises:
        InputError: a source that cannot be converted, with its number.
    """
    plans = []
    for path, name in zip(sources, _names(sources), strict=True):
        command = shlex.join(["scmf-store", "convert", *map(str, sources), "--dest", str(dest), *options.flags()])
        with open_source(path, ReadWishes(options.cells_in, scratch)) as file, reading(path, "its tables and matrices"):
            plans.append(_plan_source(file, name, options, command))
    species = check_species({str(p.path): p.genes for p in plans})
    return Plan(tuple(plans), number_genes([p.genes for p in plans]), species, command)


def check_tables(file: Source, matrix: Matrix) -> None:
    """Refuse a matrix that does not fit its tables, or is empty."""
    if not matrix.n_cells or not matrix.n_genes:
        raise refuse("D004", f"the matrix has {matrix.n_cells} cells and {matrix.n_genes} genes", where=matrix.where)
    n_obs, n_var = len(file.cells_of(matrix.element)), len(file.var(matrix.element))
    if (n_obs, n_var) != (matrix.n_cells, matrix.n_genes):
        what = f"obs has {n_obs:,} rows and var {n_var:,}, the matrix is {matrix.n_cells:,} x {matrix.n_genes:,}"
        raise refuse("D003", what, where=matrix.where)
    file.obs_rows(0, 1, element=matrix.element)  # better now than after an hour


def _plan_source(file: Source, name: str, options: ConvertOptions, command: str) -> SourcePlan:
    choice = choose_counts(file, wish=options.counts, command=command)
    matrix = choice.matrix
    check_tables(file, matrix)
    genes = _genes(file, matrix.element, options)
    if not any(genes.ids):
        raise refuse("D012", f"none of the {matrix.n_genes:,} columns has an id", where=str(file.path))
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
        genes=genes,
    )


def _genes(file: Source, element: str, options: ConvertOptions) -> SourceGenes:
    """Genes of the matrix's columns; those that are no genes do not take part in the search for ids."""
    var, kept = file.var(element), file.kept_columns(element)
    where = f"{file.path}: var of {element}"
    if kept is None:
        return find_genes(var, options.genes, where=where)
    return find_genes(RowsTable(var, kept), options.genes, where=where).among(kept)


def _names(sources: Sequence[Path]) -> list[str]:
    twice = {p.name for p in sources if [q.name for q in sources].count(p.name) > 1}
    return [f"{p.absolute().parent.name}/{p.name}" if p.name in twice else p.name for p in sources]
