"""Gene ids of a file. In: its var table and the user's wishes. Out: one id a column, and what was dropped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.data.ingest.refusals import refuse
from scmf.data.ingest.table import Table
from scmf.data.manifest import IdSpace, Species

ENSEMBL: Final = re.compile(r"^(ENS([A-Z]{0,6})G\d{11})(\.\d+)?(_PAR_Y)?$")
"""Stable id, species code (none for human, MUS for mouse), version, and GENCODE's mark of the Y copy."""

_SPECIES: Final[dict[str, Species]] = {"": "human", "MUS": "mouse"}
_SYMBOL_COLUMNS: Final = ("gene_symbol", "gene_symbols", "feature_name", "gene_name", "gene_short_name", "symbol")


@dataclass(frozen=True, slots=True)
class SourceGenes:
    """The columns of one source."""

    column: str
    """Column of var that held the ids; `index` for the index."""
    ids: tuple[str, ...]
    """(n_genes,) id of each column, "" for one to drop."""
    symbols: tuple[str, ...]
    """(n_genes,) symbol of each column, "" where unknown."""
    species: frozenset[Species]
    """Species of the ids kept."""
    versions_stripped: int = 0
    other_species: int = 0
    other_features: int = 0
    """Columns that are no genes (antibodies, guides) and were left out before."""

    @property
    def without_id(self) -> int:
        """Columns dropped for want of an id."""
        return sum(not i for i in self.ids) - self.other_species - self.other_features

    def among(self, kept: npt.NDArray[np.bool_]) -> SourceGenes:
        """The same genes as columns of a wider matrix: `kept` says which of its columns they are, in order."""
        place = np.cumsum(kept) - 1
        widen = [(int(p), bool(k)) for p, k in zip(place, kept, strict=True)]
        ids = tuple(self.ids[p] if k else "" for p, k in widen)
        symbols = tuple(self.symbols[p] if k else "" for p, k in widen)
        return replace(self, ids=ids, symbols=symbols, other_features=int((~kept).sum()))


@dataclass(frozen=True, slots=True)
class GeneWishes:
    """What the user says about genes."""

    column: str | None = None
    id_space: IdSpace = "ensembl"
    species: Species | None = None


def find_genes(var: Table, wishes: GeneWishes, *, where: str) -> SourceGenes:
    """Find the gene ids of a table and bring them to the store's form.

    Raises:
        InputError: D010, D011 or D012.
    """
    texts = _text_columns(var, wishes, where)
    if wishes.id_space == "symbols":
        return _named_genes(texts, wishes, where)
    share = {column: _ensembl_share(values) for column, values in texts.items()}
    best = max(share, key=lambda c: share[c])  # the first of equals: the index, then the order of the columns
    if share[best] < 0.5:
        raise _no_ids(texts, wishes, where)
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


def _no_ids(texts: dict[str, npt.NDArray[Any]], wishes: GeneWishes, where: str) -> Exception:
    seen = "; ".join(f"{column}: {', '.join(values[:3])}" for column, values in texts.items())
    number = "D010" if wishes.column is None else "D011"
    return refuse(
        number,
        f"no column of var holds Ensembl gene ids ({seen})",
        where=where,
        fix="add a column of Ensembl ids to var and name it with --gene-column NAME; or, to keep the names "
        "as they are, --gene-ids symbols (the shipped vocabularies will not match)",
    )


def _ensembl_genes(column: str, texts: npt.NDArray[Any], symbols: tuple[str, ...]) -> SourceGenes:
    matches = [ENSEMBL.match(t) for t in texts]
    ids = tuple(m.group(1) if m else "" for m in matches)
    codes = {m.group(2) for m in matches if m}
    return SourceGenes(
        column=column,
        ids=ids,
        symbols=symbols,
        species=frozenset(_SPECIES.get(c, "other") for c in codes),
        versions_stripped=sum(bool(m and (m.group(3) or m.group(4))) for m in matches),
    )


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
    dropped = sum(bool(i) for i in genes.ids) - sum(bool(i) for i in kept)
    return replace(genes, ids=kept, species=frozenset({species}), other_species=dropped)


def species_of(gene: str) -> Species:
    """Species of an Ensembl id."""
    match = ENSEMBL.match(gene)
    return _SPECIES.get(match.group(2), "other") if match else "other"


def _named_genes(texts: dict[str, npt.NDArray[Any]], wishes: GeneWishes, where: str) -> SourceGenes:
    column = wishes.column or "index"
    names = tuple(str(t) for t in texts[column])
    if all(n.isdigit() for n in names):
        raise refuse("D010", f"the names of the genes are numbers: {', '.join(names[:3])}", where=where)
    species = frozenset({wishes.species}) if wishes.species else frozenset[Species]()
    return SourceGenes(column=column, ids=names, symbols=names, species=species)


def _symbols(var: Table, id_column: str) -> tuple[str, ...]:
    """Symbols from a usual column, or from the index where the ids were elsewhere."""
    column = next((c for c in _SYMBOL_COLUMNS if c in var.columns), None if id_column == "index" else "index")
    texts = var.texts(column) if column else None
    return tuple(str(t) for t in texts) if texts is not None else ("",) * len(var)
