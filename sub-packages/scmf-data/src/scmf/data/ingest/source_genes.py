"""The columns of one source as genes: what each was called, which id it got, and how. In: matches. Out: a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from scmf.core.text import counted
from scmf.data.gene_names import How
from scmf.data.manifest import IdSpace, Species


@dataclass(frozen=True, slots=True)
class GeneWishes:
    """What the user says about genes."""

    column: str | None = None
    """Column of var that names the genes; None: found."""
    id_space: IdSpace = "ensembl"
    """What the store's ids will be: Ensembl's, or the names as they are."""
    map_names: bool = False
    """Map every name to an Ensembl id, instead of taking the file's own ids."""
    table: Path | None = None
    """The user's own names and ids, which come first when names are mapped."""
    species: Species | None = None
    orthologs: Literal["human"] | None = None
    """Give mouse genes the ids of their one-to-one human orthologs."""

    @property
    def gene_ids(self) -> Literal["ensembl", "map", "symbols"]:
        """`--gene-ids`, as the command spells it."""
        return "map" if self.map_names else self.id_space


class ColumnOrigin(NamedTuple):
    """How one column got its id, or none."""

    given: str
    """Its name in the source."""
    how: How
    candidates: tuple[str, ...] = ()
    """Ids that an ambiguous name may mean."""


@dataclass(frozen=True, slots=True)
class SourceGenes:
    """The columns of one source."""

    column: str
    """Column of var that held the ids or names; `index` for the index."""
    ids: tuple[str, ...]
    """(n_genes,) id of each column, "" for one to drop."""
    symbols: tuple[str, ...]
    """(n_genes,) symbol of each column, "" where unknown."""
    species: frozenset[Species]
    """Species of the ids kept."""
    origins: tuple[ColumnOrigin, ...]
    """(n_genes,) what each column was called, and how its id was found."""
    other_features: int = 0
    """Columns that are no genes (antibodies, guides) and were left out before."""
    table: str | None = None
    """Species and fingerprint of the gene table with which names were mapped, and the user's own; None: not mapped."""
    orthologs: str | None = None
    """Which ids were replaced by those of orthologs, and by which table; None: none."""

    @property
    def found(self) -> Mapping[How, int]:
        """Columns by how their ids were found, the most frequent first."""
        return dict(Counter(origin.how for origin in self.origins).most_common())

    @property
    def versions_stripped(self) -> int:
        """Ids that carried a version."""
        return self.found.get("version-stripped", 0)

    @property
    def other_species(self) -> int:
        """Columns dropped because they are of another species than asked for."""
        return self.found.get("other-species", 0)

    @property
    def without_id(self) -> int:
        """Columns dropped for want of an id."""
        return sum(not i for i in self.ids) - self.other_species - self.other_features

    def record(self) -> dict[str, Any]:
        """What a manifest's `SourceRecord` keeps of the mapping."""
        return {"genes_found": dict(self.found), "gene_table": self.table, "orthologs": self.orthologs}

    def lines(self) -> list[str]:
        """What mapping did, for people; nothing where the file's own ids were taken."""
        lines = []
        if self.table:
            ways = ", ".join(f"{how} {n:,}" for how, n in self.found.items() if how != "no-gene")
            lines.append(f"mapped by the names of {self.table.partition(' sha256:')[0]}: {ways}")
        chosen = self.found.get("ambiguous-chosen", 0)
        if chosen:
            what = f"{counted(chosen, 'symbol')} of several ids"
            lines.append(f"{what}: the oldest is taken (--gene-report FILE lists them)")
        if self.orthologs:
            lost = self.found.get("no-ortholog", 0)
            what = self.orthologs.partition(", sha256:")[0]
            lines.append(f"{what}; {counted(lost, 'gene')} without exactly one ortholog dropped" if lost else what)
        return lines

    def among(self, kept: npt.NDArray[np.bool_]) -> SourceGenes:
        """The same genes as columns of a wider matrix: `kept` says which of its columns they are, in order."""
        place = np.cumsum(kept) - 1
        widen = [(int(p), bool(k)) for p, k in zip(place, kept, strict=True)]
        return replace(
            self,
            ids=tuple(self.ids[p] if k else "" for p, k in widen),
            symbols=tuple(self.symbols[p] if k else "" for p, k in widen),
            origins=tuple(self.origins[p] if k else ColumnOrigin("", "no-gene") for p, k in widen),
            other_features=int((~kept).sum()),
        )
