"""What an Ensembl gene id says. In: an id. Out: its gene without version, and its species."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

ENSEMBL: Final = re.compile(r"^(ENS([A-Z]{0,6})G\d{11})(\.\d+)?(_PAR_Y)?$")
"""Stable id, species code (none for human, MUS for mouse), version, and GENCODE's mark of the Y copy."""

NamedSpecies = Literal["human", "mouse"]
NAMED_SPECIES: Final[tuple[NamedSpecies, ...]] = ("human", "mouse")
"""Species with a table of names."""
SPECIES_CODES: Final[Mapping[str, NamedSpecies]] = {"": "human", "MUS": "mouse"}


def species_of(gene_id: str) -> Literal["human", "mouse", "other"]:
    """Species of an Ensembl id."""
    match = ENSEMBL.match(gene_id)
    return SPECIES_CODES.get(match.group(2), "other") if match else "other"
