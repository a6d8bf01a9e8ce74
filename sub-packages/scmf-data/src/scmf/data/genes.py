"""Which gene a name means. In: `human` or `mouse`. Out: a table of ids, symbols, aliases and retired ids.

    load_gene_table("human").map(["TP53", "p53", "ENSG00000141510.16", "1-Mar"])

The tables are artefacts: parquet files with their source and fingerprint, made by scripts/build_gene_tables.py and
checked when they are read. The rules by which a name is mapped are in `scmf.data.gene_names`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import pyarrow as pa

from scmf.core.errors import VocabularyError
from scmf.data.artefact import fingerprint_of, read_artefact, write_artefact
from scmf.data.ensembl import ENSEMBL, NAMED_SPECIES, SPECIES_CODES, NamedSpecies
from scmf.data.gene_names import GeneMapping, map_names

SCHEMA: Final = "scmf-genes/1"
SHIPPED: Final = Path(__file__).parent / "gene_tables"


class Gene(NamedTuple):
    """One gene of the current annotation."""

    id: str
    """Ensembl id without version."""
    symbol: str
    """"" for a gene that has no symbol."""
    version: int
    """Version of the Ensembl id in this annotation."""
    length: int
    """Length in bases as the source states it."""
    biotype: str
    """GENCODE's gene type, such as protein_coding."""


@dataclass(frozen=True, eq=False)
class GeneTable:
    """Genes of one species, and the other names and ids that lead to them."""

    species: NamedSpecies
    version: str
    """Version of the annotation."""
    genes: tuple[Gene, ...]
    """Every current gene, in the order of the ids."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Alias or previous symbol in upper case -> the current ids that it may mean, usually one."""
    retired: Mapping[str, str] = field(default_factory=dict)
    """Ensembl id that is no longer current -> the current id that stands for it."""
    source: str = ""
    """Where the facts come from, and under which licence."""
    fingerprint: str = field(init=False)
    """Hash of everything above except `source`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))
        object.__setattr__(self, "retired", MappingProxyType(dict(self.retired)))
        fault = _fault(self)
        if fault:
            raise VocabularyError(fault, where=f"gene table of {self.species}", fix="build it again from its source")
        others = [sorted(self.aliases.items()), sorted(self.retired.items())]
        object.__setattr__(self, "fingerprint", fingerprint_of(SCHEMA, self.species, self.version, self.genes, *others))

    def __len__(self) -> int:
        """Number of current genes."""
        return len(self.genes)

    def __contains__(self, gene_id: object) -> bool:
        """Whether this is a current Ensembl id, without version."""
        return gene_id in self.by_id

    def __getitem__(self, gene_id: str) -> Gene:
        """The gene with this current id; KeyError when there is none."""
        return self.by_id[gene_id]

    @cached_property
    def by_id(self) -> Mapping[str, Gene]:
        """Gene of each current id."""
        return {gene.id: gene for gene in self.genes}

    @cached_property
    def by_symbol(self) -> Mapping[str, tuple[str, ...]]:
        """Ids of each current symbol, spelt as the annotation does; usually one."""
        return _group((gene.symbol, gene.id) for gene in self.genes if gene.symbol)

    @cached_property
    def by_upper_symbol(self) -> Mapping[str, tuple[str, ...]]:
        """Ids of each current symbol in upper case."""
        return _group((gene.symbol.upper(), gene.id) for gene in self.genes if gene.symbol)

    def map(self, names: Sequence[str]) -> GeneMapping:
        """Find the Ensembl id of every name.

        Args:
            names: (n,) symbols, aliases or Ensembl ids, one a column of a matrix; "" for one without a name.

        Returns:
            (n,) ids, "" where there is none, and how each was found. Nothing is guessed in silence.
        """
        return map_names(self, names)

    def save(self, path: str | Path) -> None:
        """Write the one file that `load` reads."""
        facts = {"schema": SCHEMA, "species": self.species, "version": self.version, "source": self.source}
        write_artefact(Path(path), _to_arrow(self), {**facts, "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and check a file.

        Raises:
            VocabularyError: it is missing, of another schema, or not as written.
        """
        return read_artefact(Path(path), lambda columns, header: cls(**_fields(columns, header)), schema=SCHEMA)


@cache
def load_gene_table(species: str) -> GeneTable:
    """Table of a species that scmf ships: `human` or `mouse`. Read once a process.

    Raises:
        VocabularyError: there is no table for that species, or it is damaged.
    """
    if species not in NAMED_SPECIES:
        raise VocabularyError(
            f"there is no gene table for {species!r}",
            where="scmf.data.genes",
            fix=f"use one of {', '.join(NAMED_SPECIES)}; data of other species needs Ensembl ids",
        )
    return GeneTable.load(SHIPPED / f"{species}.parquet")


def _group(pairs: Any) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, gene in pairs:
        found[name] = (*found.get(name, ()), gene)
    return found


def _fault(table: GeneTable) -> str | None:
    """First reason why the fields do not make a table, or None."""
    ids = [gene.id for gene in table.genes]
    known = set(ids)
    if not ids or len(known) != len(ids) or ids != sorted(ids):
        return f"{len(ids):,} gene ids, of which {len(known):,} differ; they have to be different and sorted"
    strange = [i for i in ids if not (m := ENSEMBL.match(i)) or SPECIES_CODES.get(m.group(2)) != table.species]
    if strange:
        return f"{len(strange):,} ids are no Ensembl ids of {table.species}, the first is {strange[0]}"
    lost = [name for name, to in table.aliases.items() if not to or not known.issuperset(to) or name != name.upper()]
    lost += [old for old, new in table.retired.items() if new not in known or old in known]
    return f"{len(lost):,} aliases or retired ids lead to no gene, the first is {lost[0]}" if lost else None


def _to_arrow(table: GeneTable) -> pa.Table:
    """Rows of three kinds: genes, then aliases (one row an id), then retired ids."""
    aliases = [(name, gene) for name, genes in sorted(table.aliases.items()) for gene in genes]
    retired = sorted(table.retired.items())
    rows: list[tuple[Any, ...]] = [("gene", gene.id, *gene) for gene in table.genes]
    rows += [("alias", name, gene, None, None, None, None) for name, gene in aliases]
    rows += [("retired", old, new, None, None, None, None) for old, new in retired]
    kind, key, ids, symbols, versions, lengths, biotypes = zip(*rows, strict=True)
    return pa.table(
        {
            "kind": pa.array(kind, pa.string()).dictionary_encode(),
            "key": pa.array(key, pa.string()),
            "id": pa.array(ids, pa.string()),
            "symbol": pa.array(symbols, pa.string()),
            "version": pa.array(versions, pa.int16()),
            "length": pa.array(lengths, pa.int32()),
            "biotype": pa.array(biotypes, pa.string()).dictionary_encode(),
        }
    )


def _fields(columns: Mapping[str, list[Any]], header: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `GeneTable`; KeyError, TypeError or ValueError if rows and header do not fit."""
    kinds = columns["kind"]
    n_genes, n_aliases = kinds.count("gene"), kinds.count("alias")
    if kinds != ["gene"] * n_genes + ["alias"] * n_aliases + ["retired"] * (len(kinds) - n_genes - n_aliases):
        raise ValueError("rows that are not genes, aliases, retired ids in that order")
    names = ("id", "symbol", "version", "length", "biotype")
    rows = zip(*(columns[name][:n_genes] for name in names), strict=True)
    pairs = list(zip(columns["key"], columns["id"], strict=True))
    return {
        "species": header["species"],
        "version": header["version"],
        "genes": tuple(map(Gene._make, rows)),
        "aliases": _group(pairs[n_genes : n_genes + n_aliases]),
        "retired": dict(pairs[n_genes + n_aliases :]),
        "source": header["source"],
    }
