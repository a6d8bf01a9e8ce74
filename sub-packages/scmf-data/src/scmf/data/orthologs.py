"""Mouse genes as human ones. In: Ensembl ids of mouse. Out: ids of their only human ortholog, or none.

Only one-to-one pairs are used: each gene has exactly one partner in the other species. Anything else would move
counts between genes by a rule of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import pyarrow as pa

from scmf.core.errors import VocabularyError
from scmf.data.artefact import fingerprint_of, read_artefact, write_artefact
from scmf.data.genes import SHIPPED, load_gene_table

SCHEMA: Final = "scmf-orthologs/1"


class OrthologPair(NamedTuple):
    """A human and a mouse gene with a common ancestor."""

    human: str
    """Ensembl id without version."""
    mouse: str
    """Ensembl id without version."""
    one_to_one: bool
    """Neither has another partner."""


@dataclass(frozen=True, eq=False)
class Orthologs:
    """Pairs of human and mouse genes."""

    version: str
    """Release that the pairs are of."""
    pairs: tuple[OrthologPair, ...]
    """Sorted, none twice."""
    unresolved: int = 0
    """Pairs of the source one of whose symbols leads to no id."""
    source: str = ""
    """Where the pairs come from, and under which licence."""
    fingerprint: str = field(init=False)
    """Hash of everything above except `source`."""

    def __post_init__(self) -> None:
        single = [p for p in self.pairs if p.one_to_one]
        humans, mice = ([p[k] for p in single] for k in (0, 1))
        others = {(0, p.human) for p in self.pairs if not p.one_to_one}
        others |= {(1, p.mouse) for p in self.pairs if not p.one_to_one}
        twice = [*humans, *mice]
        if len(set(twice)) != len(twice) or any((0, p.human) in others or (1, p.mouse) in others for p in single):
            what = "a gene of a one-to-one pair has another partner"
            raise VocabularyError(what, where="orthologs", fix="build the table again from its source")
        object.__setattr__(self, "fingerprint", fingerprint_of(SCHEMA, self.version, self.pairs, self.unresolved))

    @cached_property
    def one_to_one(self) -> Mapping[str, str]:
        """Human id of each mouse id that has exactly one partner."""
        return {pair.mouse: pair.human for pair in self.pairs if pair.one_to_one}

    def to_human(self, mouse_ids: Sequence[str]) -> tuple[str, ...]:
        """(n,) human id of each mouse id; "" where it has no partner, or is not one of a one-to-one pair."""
        return tuple(self.one_to_one.get(gene, "") for gene in mouse_ids)

    def save(self, path: str | Path) -> None:
        """Write the one file that `load` reads."""
        header = {"schema": SCHEMA, "version": self.version, "unresolved": self.unresolved, "source": self.source}
        columns = {
            "human": pa.array([p.human for p in self.pairs], pa.string()),
            "mouse": pa.array([p.mouse for p in self.pairs], pa.string()),
            "one_to_one": pa.array([p.one_to_one for p in self.pairs], pa.bool_()),
        }
        write_artefact(Path(path), pa.table(columns), {**header, "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and check a file; VocabularyError when it is missing or not as written."""
        return read_artefact(Path(path), lambda columns, header: cls(**_fields(columns, header)), schema=SCHEMA)


@cache
def load_orthologs() -> Orthologs:
    """The table of human and mouse that scmf ships. Read once a process."""
    return Orthologs.load(SHIPPED / "human-mouse.parquet")


def release_tables() -> None:
    """Forget the tables of genes and orthologs, about 100 MB: a conversion needs them while it plans, not later."""
    load_gene_table.cache_clear()
    load_orthologs.cache_clear()


def _fields(columns: Mapping[str, list[Any]], header: Mapping[str, Any]) -> dict[str, Any]:
    rows = zip(columns["human"], columns["mouse"], columns["one_to_one"], strict=True)
    pairs = tuple(OrthologPair(*row) for row in rows)
    return {
        "version": header["version"],
        "pairs": pairs,
        "unresolved": header["unresolved"],
        "source": header["source"],
    }
