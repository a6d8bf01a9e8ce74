"""The rules by which a name becomes a gene. In: a gene table and names. Out: an id a name, and how it was found.

In this order: an Ensembl id; a symbol as the annotation spells it; a date that a spreadsheet made; an Ensembl id
inside a name (`TXNIP_ENSG00000117289`); a symbol in other case; an alias; a symbol with R's dots for hyphens (`HLA.A`);
a symbol with the suffix of a repeat (`TBCE.1`, `TBCE-1`). Each name is judged alone, but for the last rule, which
asks whether the bare name is there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, Protocol

from scmf.data.ensembl import ENSEMBL, SPECIES_CODES, NamedSpecies

How = Literal[
    "own-table",
    "exact",
    "version-stripped",
    "retired",
    "not-listed",
    "embedded-id",
    "case",
    "alias",
    "dots",
    "repeat",
    "ambiguous-chosen",
    "ambiguous-dropped",
    "other-species",
    "spreadsheet-date",
    "number",
    "empty",
    "not-found",
    "no-ortholog",
    "name",
    "no-gene",
]
HOWS: Final[Mapping[How, str]] = {
    "own-table": "a name of the table that `--gene-table` gave, which comes before every rule",
    "exact": "a current id or symbol, spelt as the annotation spells it",
    "version-stripped": "a current id that carried a version or the mark of the Y copy",
    "retired": "an id that is no longer current, replaced by the one that is",
    "not-listed": "an Ensembl id that the table does not know; kept as it is",
    "embedded-id": "an Ensembl id inside a longer name",
    "case": "a current symbol in upper or lower case",
    "alias": "an alias or previous symbol of one gene",
    "dots": "a current symbol whose hyphens R turned into dots (HLA.A)",
    "repeat": "a repeated name with a suffix (TBCE.1, TBCE-1), given the id of the bare name",
    "ambiguous-chosen": "a symbol of several ids, of which the oldest accession is taken",
    "ambiguous-dropped": "a name of several genes, or of a family of more than 5 loci; dropped",
    "other-species": "an id or name of another species; dropped",
    "spreadsheet-date": "a symbol that a spreadsheet turned into a date; dropped",
    "number": "a number, not a name; dropped",
    "empty": "no name; dropped",
    "not-found": "a name that the table does not know; dropped",
    "no-ortholog": "a gene without exactly one partner in the other species; dropped",
    "name": "a name, kept as it is",
    "no-gene": "a feature that is no gene (antibody, guide, peak); dropped",
}
"""What each way of finding an id, or none, means."""

FAMILY: Final = 5
"""A symbol of more loci is the name of a family (Y_RNA: 758), not of a gene."""

_MONTHS: Final = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
_DATE: Final = re.compile(
    rf"^(\d{{1,2}}-({_MONTHS})|({_MONTHS})-\d{{1,2}}|\d{{4}}-\d{{2}}-\d{{2}}( 00:00:00)?)([.-]\d+)?$", re.IGNORECASE
)
_EMBEDDED: Final = re.compile(r"(?<![A-Za-z0-9])ENS[A-Z]{0,6}G\d{11}(?:\.\d+)?(?![A-Za-z0-9])")
_ASSEMBLY: Final = re.compile(r"^(GRCh3[78]|hg19|hg38|GRCm3[89]|mm9|mm10|mm39)_+(?=.)", re.IGNORECASE)
_SUFFIX: Final = re.compile(r"[.-]\d+$")
_MISSING: Final = frozenset({"", "nan", "NaN", "None", "NA", "<NA>"})


@dataclass(frozen=True, slots=True)
class Match:
    """What one name led to."""

    id: str
    """"" for a name that is dropped."""
    how: How
    candidates: tuple[str, ...] = ()
    """The ids that an ambiguous name may mean."""


@dataclass(frozen=True, eq=False)
class GeneMapping:
    """Ids of names, and how each was found."""

    given: tuple[str, ...]
    """(n,) the names."""
    matches: tuple[Match, ...]
    """(n,) what each led to."""

    @property
    def ids(self) -> tuple[str, ...]:
        """(n,) Ensembl ids, "" for names that are dropped."""
        return tuple(match.id for match in self.matches)

    @property
    def how(self) -> tuple[How, ...]:
        """(n,) how each was found, a key of `HOWS`."""
        return tuple(match.how for match in self.matches)

    @cached_property
    def counts(self) -> Mapping[How, int]:
        """Names by how they were found, the most frequent first; none that is zero."""
        return dict(Counter(self.how).most_common())

    @property
    def kept(self) -> int:
        """Names that have an id."""
        return sum(bool(match.id) for match in self.matches)

    def __str__(self) -> str:
        share = self.kept / max(1, len(self.given))
        ways = ", ".join(f"{how} {n:,}" for how, n in self.counts.items())
        return f"{self.kept:,} of {len(self.given):,} names ({share:.1%}) have an Ensembl id: {ways}"


class KnownNames(Protocol):
    """What a gene table knows of names; see scmf.data.genes.GeneTable."""

    @property
    def species(self) -> NamedSpecies:
        """Of all its genes."""
        ...

    @property
    def by_symbol(self) -> Mapping[str, tuple[str, ...]]:
        """Ids of each current symbol, spelt as the annotation does."""
        ...

    @property
    def by_upper_symbol(self) -> Mapping[str, tuple[str, ...]]:
        """Ids of each current symbol in upper case."""
        ...

    @property
    def aliases(self) -> Mapping[str, tuple[str, ...]]:
        """Current ids that an alias in upper case may mean."""
        ...

    @property
    def retired(self) -> Mapping[str, str]:
        """The current id that stands for one that no longer is."""
        ...

    def __contains__(self, gene_id: object) -> bool:
        """Whether this is a current id."""
        ...


def map_names(table: KnownNames, names: Sequence[str]) -> GeneMapping:
    """Find the id of every name; see `scmf.data.genes.GeneTable.map`."""
    given = tuple(names)
    there = {bare_name(name) for name in given}
    found = {name: _match(name, table, there) for name in set(given)}
    return GeneMapping(given, tuple(found[name] for name in given))


def is_excel_date(name: str) -> bool:
    """Whether a spreadsheet made this of a symbol: 1-Mar, Sep-02, 2001-03-01."""
    return _DATE.match(name) is not None


def choose_id(candidates: Sequence[str]) -> str:
    """The id that stands for a symbol of several: the oldest accession, which is the lowest; "" for a family.

    Newer accessions under a symbol that is taken are the copy on the Y chromosome, a read-through, or a transcript
    that was split off; files made with an older annotation can only mean the older one.
    """
    return min(candidates) if len(candidates) <= FAMILY else ""


def assembly_of(name: str) -> NamedSpecies | None:
    """Species of the assembly that a name begins with (GRCh38_TP53, mm10___Trp53), as in mixtures of two species."""
    match = _ASSEMBLY.match(name)
    return None if match is None else "human" if match.group(1).lower().startswith(("grch", "hg")) else "mouse"


def bare_name(name: str) -> str:
    """A name without surrounding blanks and without its assembly."""
    return _ASSEMBLY.sub("", name.strip())


def _match(name: str, table: KnownNames, there: set[str]) -> Match:
    bare = bare_name(name)
    if bare in _MISSING:
        return Match("", "empty")
    if assembly_of(name.strip()) not in {None, table.species}:
        return Match("", "other-species")
    return (
        _match_id(bare, table)
        or _match_symbol(bare, table)
        or _match_date(bare)
        or _match_embedded(bare, table)
        or _match_other_spelling(bare, table)
        or _match_dots(bare, table)
        or _match_repeat(bare, table, there)
        or Match("", "number" if bare.isdigit() else "not-found")
    )


def _match_id(name: str, table: KnownNames) -> Match | None:
    match = ENSEMBL.match(name)
    if match is None:
        return None
    gene = match.group(1)
    if SPECIES_CODES.get(match.group(2)) != table.species:
        return Match("", "other-species")
    if gene in table.retired:
        return Match(table.retired[gene], "retired")
    if gene not in table:
        return Match(gene, "not-listed")
    return Match(gene, "exact" if gene == name else "version-stripped")


def _match_symbol(name: str, table: KnownNames) -> Match | None:
    return _one_of(table.by_symbol.get(name, ()), "exact")


def _match_date(name: str) -> Match | None:
    return Match("", "spreadsheet-date") if is_excel_date(name) else None


def embedded_id(name: str) -> str:
    """The Ensembl id inside a longer name (`TXNIP_ENSG00000117289`), with its version; "" where there is none."""
    match = _EMBEDDED.search(name) if "ENS" in name else None
    return match.group() if match else ""


def _match_embedded(name: str, table: KnownNames) -> Match | None:
    found = embedded_id(name)
    inner = _match_id(found, table) if found else None
    return Match(inner.id, "embedded-id") if inner and inner.id else inner


def _match_other_spelling(name: str, table: KnownNames) -> Match | None:
    upper = name.upper()
    symbol = _one_of(table.by_upper_symbol.get(upper, ()), "case")
    if symbol is not None:
        return symbol
    genes = table.aliases.get(upper, ())
    if len(genes) > 1:  # different genes under one alias: no rule could choose
        return Match("", "ambiguous-dropped", genes)
    return Match(genes[0], "alias") if genes else None


def _match_dots(name: str, table: KnownNames) -> Match | None:
    """R's `make.names` turns hyphens into dots, which loses 5 to 10% of the molecules of PBMCs: HLA and MT first."""
    return _one_of(table.by_symbol.get(name.replace(".", "-"), ()), "dots") if "." in name else None


def _match_repeat(name: str, table: KnownNames, there: set[str]) -> Match | None:
    base = _SUFFIX.sub("", name)
    if base == name or base not in there:
        return None
    found = _match_symbol(base, table) or _match_other_spelling(base, table)
    return Match(found.id, "repeat", found.candidates) if found and found.id else found


def _one_of(genes: tuple[str, ...], how: How) -> Match | None:
    if not genes:
        return None
    if len(genes) == 1:
        return Match(genes[0], how)
    chosen = choose_id(genes)
    return Match(chosen, "ambiguous-chosen" if chosen else "ambiguous-dropped", genes)
