"""How much of a store a vocabulary knows. In: both. Out: shares of the genes and of the counts, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from scmf.data.ensembl import NAMED_SPECIES
from scmf.data.genes import GeneTable, load_gene_table
from scmf.data.orthologs import load_orthologs
from scmf.data.store import CellStore
from scmf.data.vocabulary import Vocabulary

CELLS_A_BLOCK = 1_024

Reason = Literal["not in the vocabulary", "retired id", "newer id", "ortholog"]
REASONS: Final[Mapping[Reason, str]] = {
    "not in the vocabulary": "the vocabulary has no such gene",
    "retired id": "the vocabulary knows the gene by its current id; `scmf-store convert --gene-ids map` finds it",
    "newer id": "the vocabulary knows the gene by a retired id only",
    "ortholog": "the vocabulary knows the human ortholog; `scmf-store convert --orthologs human` takes it",
}


class MissingGene(NamedTuple):
    """A gene of the store without a token."""

    id: str
    symbol: str
    """Current symbol, "" where unknown."""
    share: float
    """Of all counts of the cells looked at."""
    reason: Reason
    """A key of `REASONS`."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What has a token, and what is dropped."""

    genes: int
    """Genes of the store."""
    known_genes: int
    """Genes of the store that have a token."""
    cells: int
    """Cells over which counts were summed."""
    counts: float
    """Their counts."""
    known_counts: float
    """Their counts of genes that have a token."""
    cells_without_tokens: int
    """Of those cells, the ones without any known gene, which a run passes over."""
    gene_counts: npt.NDArray[np.float64] = field(repr=False, compare=False)
    """(genes,) float64 counts of each gene over those cells."""

    @property
    def gene_share(self) -> float:
        """Share of the genes that have a token."""
        return self.known_genes / max(1, self.genes)

    @property
    def count_share(self) -> float:
        """Share of the counts in genes that have a token."""
        return self.known_counts / self.counts if self.counts else 0.0

    def __str__(self) -> str:
        return (
            f"{self.known_genes:,} of {self.genes:,} genes ({self.gene_share:.1%}) and "
            f"{self.count_share:.1%} of the counts of {self.cells:,} cells have tokens; "
            f"{self.cells_without_tokens:,} of these cells have none"
        )


def measure_coverage(vocabulary: Vocabulary, store: CellStore, *, cells: int = 20_000) -> Coverage:
    """Count what the vocabulary knows, over at most so many cells, evenly spaced over the store."""
    known = vocabulary.tokens_of(store.gene_ids) >= 0
    n = min(cells, len(store))
    chosen = np.arange(n, dtype=np.int64) * len(store) // max(1, n)
    sums = np.zeros(len(known))
    without = 0
    for start in range(0, n, CELLS_A_BLOCK):
        batch = store.fetch(chosen[start : start + CELLS_A_BLOCK])
        sums += np.bincount(batch.indices, weights=batch.counts, minlength=len(known))
        upto = np.concatenate([np.zeros(1, np.int64), np.cumsum(known[batch.indices])])
        without += int((upto[batch.indptr[1:]] == upto[batch.indptr[:-1]]).sum())
    return Coverage(len(known), int(known.sum()), n, float(sums.sum()), float(sums[known].sum()), without, sums)


def missing_genes(vocabulary: Vocabulary, store: CellStore, coverage: Coverage) -> tuple[MissingGene, ...]:
    """Genes of the store without a token, those with most of the counts first; ties by id.

    Args:
        vocabulary: the one that was measured.
        store: the one that was measured.
        coverage: `measure_coverage` of both.
    """
    species = store.manifest.species
    table = load_gene_table(species) if species in NAMED_SPECIES else None
    unknown = [int(k) for k in np.flatnonzero(vocabulary.tokens_of(store.gene_ids) < 0)]
    genes = [store.gene_ids[k] for k in unknown]
    shares = coverage.gene_counts[unknown] / max(1.0, coverage.counts)
    reasons = _reasons(genes, vocabulary, table)
    rows = zip(genes, shares.tolist(), reasons, strict=True)
    missing = [MissingGene(gene, _symbol(gene, table), share, reason) for gene, share, reason in rows]
    return tuple(sorted(missing, key=lambda gene: (-gene.share, gene.id)))


def coverage_facts(vocabulary: Vocabulary, coverage: Coverage, missing: tuple[MissingGene, ...]) -> dict[str, Any]:
    """What was measured, for programs: numbers, and genes and share of the counts by reason."""
    reasons = {
        reason: {"genes": len(group), "share_of_counts": sum(gene.share for gene in group)}
        for reason in REASONS
        if (group := [gene for gene in missing if gene.reason == reason])
    }
    return {
        "vocabulary": vocabulary.name,
        "fingerprint": vocabulary.fingerprint,
        "genes": coverage.genes,
        "known_genes": coverage.known_genes,
        "cells": coverage.cells,
        "counts": coverage.counts,
        "known_counts": coverage.known_counts,
        "cells_without_tokens": coverage.cells_without_tokens,
        "missing": reasons,
    }


def _reasons(genes: list[str], vocabulary: Vocabulary, table: GeneTable | None) -> list[Reason]:
    """Why each of these genes has no token. The first reason that holds counts."""
    if table is None:
        return ["not in the vocabulary"] * len(genes)
    current = [table.retired.get(gene, gene) for gene in genes]
    older = {table.retired[g] for g in (*vocabulary.gene_ids, *vocabulary.aliases) if g in table.retired}
    human = load_orthologs().to_human(genes) if table.species == "mouse" else [""] * len(genes)
    tests: dict[Reason, list[bool]] = {
        "retired id": (vocabulary.tokens_of(current) >= 0).tolist(),
        "newer id": [gene in older for gene in genes],
        "ortholog": (vocabulary.tokens_of(human) >= 0).tolist(),
    }
    return [next((r for r, holds in tests.items() if holds[k]), "not in the vocabulary") for k in range(len(genes))]


def _symbol(gene: str, table: GeneTable | None) -> str:
    if table is None:
        return ""
    current = table.retired.get(gene, gene)
    return table[current].symbol if current in table else ""
