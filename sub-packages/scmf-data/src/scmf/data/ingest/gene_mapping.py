"""Names to Ensembl ids while a source is read. In: the text columns of var, the user's wishes. Out: an id a column.

Two uses: `--gene-ids map` maps, and a file without Ensembl ids is told how much a mapping would find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from scmf.data.ensembl import ENSEMBL, NAMED_SPECIES, NamedSpecies, species_of
from scmf.data.gene_names import Match
from scmf.data.gene_species import NameSurvey, survey_names
from scmf.data.genes import load_gene_table
from scmf.data.ingest.findings import refuse
from scmf.data.ingest.name_table import NameTable, read_name_table
from scmf.data.ingest.source_genes import ColumnOrigin, GeneWishes, SourceGenes
from scmf.data.orthologs import load_orthologs

Texts = Mapping[str, npt.NDArray[Any]]


def map_genes(texts: Texts, wishes: GeneWishes, symbols: tuple[str, ...], *, where: str, command: str) -> SourceGenes:
    """Map every column: by its Ensembl id where it has one, else by its name.

    Args:
        texts: text columns of var that may hold names.
        wishes: `species` decides; else it is found from the names.
        symbols: (n_genes,) symbols to keep beside the ids, "" where unknown.
        where: file and element, for messages.
        command: the conversion as a command, for messages.

    Raises:
        InputError: D010 when the species cannot be told, D013 when there are two.
    """
    own = read_name_table(wishes.table) if wishes.table is not None else NameTable({}, "")
    surveys = {column: survey_names(list(values)) for column, values in texts.items()}
    ids = max(surveys, key=lambda c: surveys[c].ensembl)
    names = max(surveys, key=lambda c: _symbols_in(surveys[c]) + len(own.ids.keys() & set(texts[c])))
    given = tuple(str(i) if ENSEMBL.match(i) else str(n or i) for i, n in zip(texts[ids], texts[names], strict=True))
    meant = [own.ids.get(name, name) for name in given]
    species = _species(meant, wishes, known=bool(own.ids), where=where, command=command)
    matches = [
        Match(own.ids[name], "own-table") if name in own.ids else match
        for name, match in zip(given, _shipped_matches(species, given), strict=True)
    ]
    origin = [f"{species} {load_gene_table(species).fingerprint}"] if species is not None else []
    used = (names,) if ids == names or not surveys[ids].ensembl else (ids, names)
    return SourceGenes(
        column=", ".join(used),
        ids=tuple(match.id for match in matches),
        symbols=tuple(s or n for s, n in zip(symbols, given, strict=True)),
        species=frozenset(species_of(match.id) for match in matches if match.id),
        origins=tuple(ColumnOrigin(n, m.how, m.candidates) for n, m in zip(given, matches, strict=True)),
        table="; ".join([*origin, *([own.origin] if own.ids else [])]),
    )


def to_human(genes: SourceGenes, *, where: str, command: str) -> SourceGenes:
    """Give mouse genes the ids of their one-to-one human orthologs, and drop the others. Human genes stay.

    Raises:
        InputError: D012 for genes of a species without a table, D013 for genes of two.
    """
    if genes.species == {"human"}:
        return replace(genes, orthologs="human already: no orthologs needed")
    if len(genes.species) > 1:
        raise refuse(
            "D013",
            f"orthologs of several species at once: {', '.join(sorted(genes.species))}",
            where=where,
            fix=f"{command} --species mouse",
        )
    if genes.species != {"mouse"}:
        raise refuse("D012", "the orthologs that scmf ships are of mouse and human", where=where, fix="leave it out")
    orthologs, human = load_orthologs(), load_gene_table("human")
    ids = orthologs.to_human(genes.ids)
    lost = tuple(bool(old) and not new for old, new in zip(genes.ids, ids, strict=True))
    return replace(
        genes,
        ids=ids,
        symbols=tuple(human[i].symbol if i else "" for i in ids),
        species=frozenset({"human"}),
        origins=tuple(
            o._replace(how="no-ortholog") if gone else o for o, gone in zip(genes.origins, lost, strict=True)
        ),
        orthologs=f"mouse to human, one-to-one, {orthologs.version}, {orthologs.fingerprint}",
    )


def advise(texts: Texts, *, command: str) -> tuple[str, str] | None:
    """What the names are and the command that maps them; None where mapping would find next to nothing.

    Args:
        texts: text columns of var, none of which holds Ensembl ids.
        command: the conversion as a command.
    """
    surveys = {column: survey_names(list(values)) for column, values in texts.items()}
    best = max(surveys, key=lambda c: (max(surveys[c].human, surveys[c].mouse), surveys[c].any_case))
    species, command = surveys[best].species, f"{command} --gene-ids map"
    if species is None and not surveys[best].other_case:
        return None
    if species in NAMED_SPECIES:
        mapping = load_gene_table(species).map([str(n) for n in texts[best]])
        share = mapping.kept / len(mapping.given)
        return f"{share:.1%} of the names in {best} are names of {species} genes that can be mapped", command
    what, fix = _doubt(surveys[best], command)
    return f"the names in {best} are {what}", fix


def _symbols_in(survey: NameSurvey) -> int:
    return max(survey.human, survey.mouse) - survey.ensembl


def _shipped_matches(species: NamedSpecies | None, given: Sequence[str]) -> tuple[Match, ...]:
    """What the shipped table says; without one, Ensembl ids stay and names are not found."""
    if species is not None:
        return load_gene_table(species).map(given).matches
    ids = [ENSEMBL.match(name) for name in given]
    return tuple(Match(i.group(1), "not-listed") if i else Match("", "not-found") for i in ids)


def _species(given: Sequence[str], wishes: GeneWishes, *, known: bool, where: str, command: str) -> NamedSpecies | None:
    """The species whose table is used; None for another one, whose names the user's own table knows."""
    said = _named(wishes.species)
    if said is not None:
        return said
    survey = survey_names(given)
    found = _named(survey.species)
    if found is not None:
        return found
    if known and survey.species is None:
        return None
    what, fix = _doubt(survey, command)
    number = "D013" if survey.species == "mixed" else "D010"
    raise refuse(number, f"the genes' names are {what}", where=where, fix=fix)


def _named(species: str | None) -> NamedSpecies | None:
    return next((known for known in NAMED_SPECIES if known == species), None)


def _doubt(survey: NameSurvey, command: str) -> tuple[str, str]:
    """Why the species cannot be told, and the command that says it."""
    if survey.ensembl > survey.names / 2:
        return "Ensembl ids of a species that scmf has no table of", command.replace(" --gene-ids map", "")
    if survey.other_case:
        what = f"symbols in letters that no species writes so ({survey.any_case / survey.names:.1%}, case ignored)"
        return what, f"say which they are, human or mouse, such as: {command} --species mouse"
    shares = f"{survey.human / max(1, survey.names):.1%} human, {survey.mouse / max(1, survey.names):.1%} mouse"
    if survey.species == "mixed":
        return f"of two species ({shares})", f"{command} --species human"
    if survey.species == "upper-case mouse":
        what = f"mouse symbols in upper case, by {survey.upper_mouse:,} names that no human gene has"
        return what, f"{command} --species mouse"
    return f"of no species that scmf has a table of ({shares})", f"{command} --species human, if they are human"
