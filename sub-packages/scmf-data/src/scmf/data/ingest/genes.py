"""Gene ids of a file. In: its var table and the user's wishes. Out: one id a column, and what was dropped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.core.errors import InputError
from scmf.data.ensembl import ENSEMBL, SPECIES_CODES, species_of
from scmf.data.gene_names import How
from scmf.data.ingest.findings import refuse
from scmf.data.ingest.source_genes import ColumnOrigin, GeneWishes, SourceGenes
from scmf.data.ingest.table import Table
from scmf.data.manifest import Species

_SYMBOL_COLUMNS: Final = ("gene_symbol", "gene_symbols", "feature_name", "gene_name", "gene_short_name", "symbol")

__all__ = [
    "ENSEMBL",
    "GeneWishes",
    "SourceGenes",
    "check_species",
    "column_numbers",
    "find_genes",
    "number_genes",
    "species_of",
]


def find_genes(
    var: Table, wishes: GeneWishes, *, where: str, command: str = "scmf-store convert SRC --dest DIR"
) -> SourceGenes:
    """Find the gene ids of a table and bring them to the store's form.

    Args:
        var: the table of the genes.
        wishes: what the user says about genes.
        where: file and element, for messages.
        command: the conversion as a command, for messages.

    Raises:
        InputError: D010, D011, D012 or D013.
    """
    if wishes.table is not None and not wishes.map_names:
        what = "--gene-table is for names that are mapped to Ensembl ids"
        raise InputError(what, where="command line", fix=f"{command.replace(' --gene-ids symbols', '')} --gene-ids map")
    texts = _text_columns(var, wishes, where)
    if wishes.id_space == "symbols":
        if wishes.orthologs:
            what = "orthologs are known by Ensembl id, and --gene-ids symbols keeps names"
            raise refuse("D010", what, where=where, fix=command.replace("--gene-ids symbols", "--gene-ids map"))
        return _named_genes(texts, wishes, where)
    if wishes.map_names:
        from scmf.data.ingest.gene_mapping import map_genes

        genes = map_genes(texts, wishes, _symbols(var, "index"), where=where, command=command)
    else:
        genes = _own_ids(var, texts, wishes, where=where, command=command)
    if wishes.orthologs is None:
        return genes
    from scmf.data.ingest.gene_mapping import to_human

    return to_human(genes, where=where, command=command)


def _own_ids(
    var: Table, texts: dict[str, npt.NDArray[Any]], wishes: GeneWishes, *, where: str, command: str
) -> SourceGenes:
    """The file's own Ensembl ids."""
    share = {column: _ensembl_share(values) for column, values in texts.items()}
    best = max(share, key=lambda c: share[c])  # the first of equals: the index, then the order of the columns
    if share[best] < 0.5:
        raise _no_ids(texts, wishes, where=where, command=command)
    return _keep_species(_ensembl_genes(best, texts[best], _symbols(var, best)), wishes.species, where)


def number_genes(sources: Sequence[SourceGenes]) -> dict[str, int]:
    """Store gene number of every id, over all sources in order of first appearance."""
    ordered = dict.fromkeys(i for genes in sources for i in genes.ids if i)
    return {gene: number for number, gene in enumerate(ordered)}


def column_numbers(genes: SourceGenes, numbers: dict[str, int]) -> npt.NDArray[np.int32]:
    """(n_genes,) int32 store gene number of each column, -1 for one to drop."""
    return np.array([numbers[i] if i else -1 for i in genes.ids], dtype=np.int32)


def check_species(sources: dict[str, SourceGenes]) -> Species | None:
    """The one species of all sources; None for symbols. InputError D013 when there are several."""
    found = {s: name for name, genes in sources.items() for s in genes.species}
    if len(found) > 1:
        named = ", ".join(f"{s} (as in {name})" for s, name in sorted(found.items()))
        raise refuse(
            "D013",
            f"genes of several species: {named}",
            where=", ".join(sources),
            fix="add --species human or --species mouse to keep one; make a store for each",
        )
    return next(iter(found), None)


def _text_columns(var: Table, wishes: GeneWishes, where: str) -> dict[str, npt.NDArray[Any]]:
    names = ("index", *var.columns) if wishes.column is None else (wishes.column,)
    if wishes.column not in {None, "index", *var.columns}:
        known = ", ".join(("index", *var.columns))
        raise refuse("D011", f"var has no column {wishes.column!r}; it has {known}", where=where)
    found = {name: var.texts(name) for name in names}
    texts = {name: values for name, values in found.items() if values is not None}
    if not texts:
        raise refuse("D011", f"column {wishes.column!r} of var holds no text", where=where)
    return texts


def _ensembl_share(texts: npt.NDArray[Any]) -> float:
    """Share of the non-empty texts that are Ensembl ids."""
    n_ids = len([t for t in texts if ENSEMBL.match(t)])
    return n_ids / max(1, len([t for t in texts if t]))


def _no_ids(texts: dict[str, npt.NDArray[Any]], wishes: GeneWishes, *, where: str, command: str) -> Exception:
    from scmf.data.ingest.gene_mapping import advise

    seen = "; ".join(f"{column}: {', '.join(values[:3])}" for column, values in texts.items())
    number = "D010" if wishes.column is None else "D011"
    what = f"no column of var holds Ensembl gene ids ({seen})"
    advice = advise(texts, command=command)
    if advice is not None:
        return refuse(number, f"{what}, but {advice[0]}", where=where, fix=advice[1])
    numbers = all(t.isdigit() for t in next(iter(texts.values())))  # no names that could be kept
    keep = "" if numbers else "; or, to keep the names as they are, --gene-ids symbols (no shipped vocabulary matches)"
    fix = f"add a column of Ensembl ids to var and name it with --gene-column NAME{keep}"
    return refuse(number, what, where=where, fix=fix)


def _ensembl_genes(column: str, texts: npt.NDArray[Any], symbols: tuple[str, ...]) -> SourceGenes:
    matches = [ENSEMBL.match(t) for t in texts]
    codes = {m.group(2) for m in matches if m}
    return SourceGenes(
        column=column,
        ids=tuple(m.group(1) if m else "" for m in matches),
        symbols=symbols,
        species=frozenset(SPECIES_CODES.get(c, "other") for c in codes),
        origins=tuple(ColumnOrigin(str(t), _how(str(t), m)) for t, m in zip(texts, matches, strict=True)),
    )


def _how(text: str, match: re.Match[str] | None) -> How:
    if match is None:
        return "not-found" if text else "empty"
    return "exact" if match.group(1) == text else "version-stripped"


def _keep_species(genes: SourceGenes, species: Species | None, where: str) -> SourceGenes:
    if species is None:
        return genes
    kept = tuple(i if i and species_of(i) == species else "" for i in genes.ids)
    if not any(kept):
        found = ", ".join(sorted(genes.species))
        raise refuse(
            "D012",
            f"no gene is of {species}; the ids are of {found}",
            where=where,
            fix="leave out --species, or name the right one",
        )
    lost = [bool(i) and not k for i, k in zip(genes.ids, kept, strict=True)]
    origins = tuple(o._replace(how="other-species") if gone else o for o, gone in zip(genes.origins, lost, strict=True))
    return replace(genes, ids=kept, species=frozenset({species}), origins=origins)


def _named_genes(texts: dict[str, npt.NDArray[Any]], wishes: GeneWishes, where: str) -> SourceGenes:
    column = wishes.column or "index"
    names = tuple(str(t) for t in texts[column])
    if all(n.isdigit() for n in names):
        raise refuse("D010", f"the names of the genes are numbers: {', '.join(names[:3])}", where=where)
    species = frozenset({wishes.species}) if wishes.species else frozenset[Species]()
    origins = tuple(ColumnOrigin(name, "name" if name else "empty") for name in names)
    return SourceGenes(column=column, ids=names, symbols=names, species=species, origins=origins)


def _symbols(var: Table, id_column: str) -> tuple[str, ...]:
    """Symbols from a usual column, or from the index where the ids were elsewhere."""
    column = next((c for c in _SYMBOL_COLUMNS if c in var.columns), None if id_column == "index" else "index")
    texts = var.texts(column) if column else None
    return tuple(str(t) for t in texts) if texts is not None else ("",) * len(var)
