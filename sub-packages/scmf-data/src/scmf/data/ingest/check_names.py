"""What is wrong with the names of genes and cells. In: the tables of a source. Out: findings, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from scmf.core.text import counted
from scmf.data.gene_names import is_excel_date
from scmf.data.ingest.check_values import Looked, share_of
from scmf.data.ingest.findings import Finding, Offender
from scmf.data.ingest.genes import SourceGenes
from scmf.data.ingest.name_space import SPIKE_IN, SPREADSHEET_NUMBER, NameSpace, is_barcode, space_of
from scmf.data.ingest.table import Table

Array = npt.NDArray[Any]

LOST_SHARE: Final = 0.05
"""Share of the molecules without an id from which somebody should look."""
LOST_TO_SPECIES: Final = 0.9
"""The same with `--species`: a mixture gives up about half of its molecules, a file of the other species nearly all."""
NAMES_LOOKED_AT: Final = 50_000
"""Names of cells that the usual look reads; the full one reads all."""
_BLOCK: Final = 1 << 16

_SPACES: Final[dict[NameSpace, tuple[str, str]]] = {
    "symbol": ("D030", "symbols"),
    "entrez": ("D031", "NCBI gene ids (Entrez)"),
    "transcript": ("D032", "ids of transcripts or proteins"),
    "probe": ("D033", "ids of probes"),
    "row number": ("D034", "row numbers"),
    "prefixed": ("D036", "ids with the name of a genome"),
}


def gene_findings(looked: Looked, genes: SourceGenes | None) -> list[Finding]:
    """Everything about the names of a matrix's genes.

    Args:
        looked: the matrix.
        genes: its ids; None where they were refused.
    """
    var = looked.file.var(looked.matrix.element)
    names = [str(n) for n in var.index()]
    found = [*_transposed(looked, names), *_spreadsheet(looked, var, names)]
    if genes is None:
        return [*found, *_space(looked, names)]
    return [*found, *_ids(looked, genes, names), *_others(looked, genes, names)]


def cell_findings(looked: Looked, hashes: Array) -> list[Finding]:
    """Cells without a name, and cells that share one.

    Args:
        looked: the matrix.
        hashes: (cells,) `name_hashes` of the source.
    """
    table = looked.file.cells_of(looked.matrix.element)
    path, scope = str(looked.file.path), f"the first {len(hashes):,}" if len(hashes) < len(table) else "all"
    found = []
    if (nameless := np.flatnonzero(hashes == name_hash(""))).size:
        what = f"{counted(nameless.size, 'cell')} of {scope} without a name, the first is number {nameless[0]:,}"
        found.append(Finding("D051", what, path, "obs", count=int(nameless.size)))
    order = np.argsort(hashes, kind="stable")
    again = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
    again = np.sort(again[hashes[again] != name_hash("")])
    if again.size:
        first = tuple(Offender(cell=_name_of(table, int(k))) for k in again[:3])
        what = f"{counted(again.size, 'cell')} of {scope} named as one before: {', '.join(map(str, first))}"
        fix = looked.mend.edit("a.obs_names_make_unique()", "names")
        found.append(Finding("D027", what, path, "obs", fix=fix, count=int(again.size), offenders=first))
    return found


def name_hashes(table: Table, *, full: bool) -> Array:
    """(cells,) uint64 hash of each cell's name, in bounded memory: 8 bytes a cell."""
    n = len(table) if full else min(len(table), NAMES_LOOKED_AT)
    pieces = [hash_names(table.index(a, min(a + _BLOCK, n))) for a in range(0, n, _BLOCK)]
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint64)


def hash_names(names: Iterable[Any]) -> Array:
    """(names,) uint64 hashes, the same in every process."""
    texts = np.array([str(n).strip() for n in names], dtype=object)
    hashes: Array = pd.util.hash_array(texts, categorize=False)
    return hashes


def name_hash(name: str) -> int:
    """Hash of one name."""
    return int(hash_names([name])[0])


def _transposed(looked: Looked, genes: Sequence[str]) -> Iterator[Finding]:
    cells = [str(n) for n in looked.file.cells_of(looked.matrix.element).index(0, 1_000)]
    named_as_genes = space_of(cells) == "ensembl"
    named_as_cells = not any(map(is_barcode, cells)) and space_of(genes) == "barcode"
    if not (named_as_genes or named_as_cells) or space_of(genes) == "ensembl":
        return
    first = tuple(Offender(cell=cell, gene=gene) for cell, gene in zip(cells[:3], genes[:3], strict=False))
    what = f"its cells have the names of genes: {', '.join(map(str, first))}"
    yield looked.finding("D043", what, fix=_transpose(looked), offenders=first)


def _transpose(looked: Looked) -> str:
    if looked.format == "table":  # its names tell: it was --cells-in that turned it
        return looked.mend.command(cells_in=None)
    return looked.mend.edit("a = a.T", "transposed")


def _spreadsheet(looked: Looked, var: Table, names: Sequence[str]) -> Iterator[Finding]:
    for column in ("index", *var.columns):
        texts = names if column == "index" else var.texts(column)
        if texts is None:
            continue
        bad = [t for t in texts if is_excel_date(t) or SPREADSHEET_NUMBER.match(t)]
        if bad:
            what = f"{counted(len(bad), 'name')} of column {column} look like dates or numbers of a spreadsheet"
            yield _genes_finding(looked, "D035", what, bad)


def _space(looked: Looked, names: Sequence[str]) -> Iterator[Finding]:
    space = space_of(names)
    if space in _SPACES:
        number, what = _SPACES[space]
        yield _genes_finding(looked, number, f"the names of the genes look like {what}", names, count=len(names))


def _ids(looked: Looked, genes: SourceGenes, names: Sequence[str]) -> Iterator[Finding]:
    given = np.array(genes.ids, dtype=object)
    kept = given != ""
    yield from _lost(looked, genes, names, kept)
    first_seen: dict[str, int] = {}
    again = [k for k, gene in enumerate(genes.ids) if gene and first_seen.setdefault(gene, k) != k]
    if again:
        what = f"{counted(len(again), 'column')} with the id of an earlier one"
        yield _genes_finding(looked, "D026", what, [genes.ids[k] for k in again])
    if genes.versions_stripped:
        yield looked.finding("D052", f"{counted(genes.versions_stripped, 'id')} with a version")


def _lost(looked: Looked, genes: SourceGenes, names: Sequence[str], kept: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    """Molecules in columns that are dropped; of a mixture of species, which `--species` parts, nearly all of them."""
    spikes = np.array([SPIKE_IN.match(n) is not None for n in names])
    lost = share_of(looked.seen.sums, ~kept & ~spikes)
    if genes.other_features or lost <= (LOST_TO_SPECIES if genes.other_species else LOST_SHARE):
        return
    without = [n for n, k, s in zip(names, kept, spikes, strict=True) if not k and not s]
    reason = "of another species or without an id" if genes.other_species else "without an id"
    reason += " or without exactly one ortholog" if genes.found.get("no-ortholog") else ""
    what = f"{lost:.0%} of the molecules of {looked.scope} are in {counted(len(without), 'column')} {reason}"
    yield _genes_finding(looked, "D029", what, without).replace(fix=_kept_again(genes))


def _kept_again(genes: SourceGenes) -> str:
    """How to keep what is dropped; "" where the table's words say it."""
    if genes.found.get("no-ortholog"):
        return "Nothing to do: a gene without exactly one partner in the other species has no id there."
    if genes.other_species:
        return "Leave the file out, make a store of its own of it, or join mouse and human with `--orthologs human`."
    if not genes.table:
        return ""
    return "List them with `--gene-report FILE` and give them ids with `--gene-table FILE`; or leave it at that."


def _others(looked: Looked, genes: SourceGenes, names: Sequence[str]) -> Iterator[Finding]:
    spikes = [n for n in names if SPIKE_IN.match(n)]
    if spikes:
        share = share_of(looked.seen.sums, np.array([SPIKE_IN.match(n) is not None for n in names]))
        what = f"{counted(len(spikes), 'spike-in')} with {share:.1%} of the molecules of {looked.scope}"
        yield _genes_finding(looked, "D044", what, spikes)
    if genes.other_features:
        yield looked.finding("D045", f"{counted(genes.other_features, 'column')} that are no genes")


def _genes_finding(
    looked: Looked, number: str, what: str, genes: Sequence[str], *, count: int | None = None
) -> Finding:
    first = tuple(Offender(gene=gene) for gene in genes[:3])
    finding = looked.finding(number, f"{what}: {', '.join(genes[:3])}", offenders=first)
    return finding.replace(element="var", count=len(genes) if count is None else count)


def _name_of(table: Table, row: int) -> str:
    return str(table.index(row, row + 1)[0])
