"""How many of a source's molecules the shipped vocabularies know. In: genes and their sums. Out: shares, findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.data.ingest.check_values import Looked, share_of
from scmf.data.ingest.findings import Finding
from scmf.data.ingest.genes import SourceGenes
from scmf.data.vocabulary import Vocabulary, load_vocabulary, shipped_vocabularies

Array = npt.NDArray[Any]

FEW: Final = 0.5
"""Share of the molecules below which somebody should look: whole human transcriptomes have 90% and more."""


@dataclass(frozen=True, slots=True)
class VocabularyShare:
    """What one vocabulary knows of a source."""

    vocabulary: str
    genes: int
    """Genes of the source that have a token."""
    of: int
    """Genes of the source."""
    molecules: float
    """Share, 0 to 1, of the molecules of the cells looked at that are in genes with a token."""

    def __str__(self) -> str:
        return f"{self.vocabulary} {self.molecules:.1%} of the molecules ({self.genes:,} of {self.of:,} genes)"


def vocabulary_shares(genes: SourceGenes, sums: Array, id_space: str) -> tuple[VocabularyShare, ...]:
    """Share of every shipped vocabulary; none for genes that are kept by name.

    Args:
        genes: the source's genes.
        sums: (n_genes,) float64 molecules of each column.
        id_space: `ensembl` or `symbols`.
    """
    if id_space == "symbols":
        return ()
    given = np.array(genes.ids, dtype=object) != ""
    # Columns that are left out on purpose are no molecules that a vocabulary could know.
    judged = sums * given if genes.other_species or genes.other_features else sums
    shares = []
    for vocabulary in _shipped():
        known = given & (vocabulary.tokens_of(genes.ids) >= 0)
        n = len({gene for gene, k in zip(genes.ids, known, strict=True) if k})
        share = share_of(judged, known)
        shares.append(VocabularyShare(vocabulary.name, n, len(set(genes.ids) - {""}), share))
    return tuple(shares)


def vocabulary_findings(looked: Looked, genes: SourceGenes, shares: Sequence[VocabularyShare]) -> list[Finding]:
    """Whether the shipped vocabularies, which are of human genes, know less than half of the molecules."""
    best = max(shares, key=lambda s: s.molecules, default=None)
    if best is None or best.molecules >= FEW or not looked.seen.sums.any():
        return []
    if genes.species == frozenset({"human"}):
        return [looked.finding("D037", f"the best of the shipped vocabularies is {best}")]
    species = ", ".join(sorted(genes.species)) or "none that is known"
    return [looked.finding("D053", f"species of the genes: {species}; the best of the shipped vocabularies is {best}")]


@cache
def _shipped() -> tuple[Vocabulary, ...]:
    return tuple(load_vocabulary(name) for name in shipped_vocabularies())
