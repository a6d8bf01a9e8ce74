"""Of which species are these names? In: the names of a matrix's genes. Out: counts, and the species or why not.

Human symbols are upper case (TP53), mouse symbols are not (Trp53); only 20 of the current ones are spelt alike.
So names are compared exactly as they are spelt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from scmf.data.ensembl import ENSEMBL, SPECIES_CODES, NamedSpecies
from scmf.data.gene_names import assembly_of, bare_name, embedded_id
from scmf.data.genes import GeneTable, load_gene_table

LEAST_SHARE: Final = 0.25
"""Of the names, at least so many are symbols of the species. Raw counts of 10x with the names of 2017 have 62%."""
MIXED_SHARE: Final = 0.10
"""Of the names, so many of the lesser species make the file one of two species."""
UPPER_MOUSE_SHARE: Final = 0.02
"""Names of no human gene that are a mouse symbol in upper case: 7.7% in mouse marrow, at most 0.06% in human files."""


@dataclass(frozen=True, slots=True)
class NameSurvey:
    """What the names of a matrix's genes look like."""

    names: int
    """Names that are not empty."""
    ensembl: int
    """Ensembl gene ids of any species, with or without version."""
    numbers: int
    """Names of digits only: NCBI (Entrez) numbers, or row numbers."""
    human: int
    """Current human symbols or ids, spelt as the annotation does."""
    mouse: int
    """Current mouse symbols or ids, spelt as the annotation does."""
    upper_mouse: int
    """Names that are a mouse symbol in upper case, and nothing of human."""
    any_case: int = 0
    """Names that are a symbol of human or mouse once case is ignored: both, mostly."""

    @property
    def other_case(self) -> bool:
        """Whether the names are symbols in letters that tell no species: all small ones, for example."""
        return self.species is None and self.any_case > self.names / 2

    @property
    def species(self) -> NamedSpecies | Literal["mixed", "upper-case mouse"] | None:
        """The one species; `mixed`; `upper-case mouse` for names that only look human; None for neither."""
        best, other = max(self.human, self.mouse), min(self.human, self.mouse)
        if not self.names or best < LEAST_SHARE * self.names:
            return None
        if other >= MIXED_SHARE * self.names:
            return "mixed"
        if self.mouse > self.human:
            return "mouse"
        return "upper-case mouse" if self.upper_mouse >= UPPER_MOUSE_SHARE * self.names else "human"


def survey_names(names: Sequence[str]) -> NameSurvey:
    """Count what the names are, each once."""
    human, mouse = load_gene_table("human"), load_gene_table("mouse")
    given = {bare for name in names if (bare := name.strip())}
    return NameSurvey(
        names=len(given),
        ensembl=len([n for n in given if ENSEMBL.match(n)]),
        numbers=len([n for n in given if n.isdigit()]),
        human=len([n for n in given if _is_of(human, n)]),
        mouse=len([n for n in given if _is_of(mouse, n)]),
        upper_mouse=len([n for n in given if _is_upper_mouse(n, human, mouse)]),
        any_case=len([n for n in given if n.upper() in human.by_upper_symbol or n.upper() in mouse.by_upper_symbol]),
    )


def _is_of(table: GeneTable, name: str) -> bool:
    if assembly_of(name) not in {None, table.species}:
        return False
    bare = bare_name(name)
    match = ENSEMBL.match(embedded_id(bare) or bare)
    return bare in table.by_symbol if match is None else SPECIES_CODES.get(match.group(2)) == table.species


def _is_upper_mouse(name: str, human: GeneTable, mouse: GeneTable) -> bool:
    known = name in human.by_upper_symbol or name in human.aliases
    return not known and name not in mouse.by_symbol and name in mouse.by_upper_symbol
