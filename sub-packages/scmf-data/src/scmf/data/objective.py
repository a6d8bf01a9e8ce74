"""What a batch hides or shifts, so that there is something to predict. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import xxhash

from scmf.core.text import counted
from scmf.data.masks import Corruption


@dataclass(frozen=True, slots=True)
class NextToken:
    """Every token is to be predicted from those before it: inputs are shifted by one, and nothing is hidden."""


@dataclass(frozen=True, slots=True)
class ClassColumn:
    """A column of obs whose values are classes."""

    column: str
    classes: tuple[str, ...] | None = None
    """Their names in the order of their numbers; None takes all that a training cell has, in alphabetical order."""

    def __str__(self) -> str:
        names = self.classes or ()
        digest = xxhash.xxh3_64("\n".join(names).encode()).hexdigest()
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        return f"column {self.column}, {counted(len(names), 'class', 'classes')} ({shown}; {digest})"


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """A column of obs whose values are numbers."""

    column: str
    mean: float | None = None
    """Subtracted from every value; None takes the mean of the training cells that have one."""
    sd: float | None = None
    """Divides every value; None takes their standard deviation (of the population, not of a sample)."""

    def __str__(self) -> str:
        return f"column {self.column}, mean {self.mean!r}, sd {self.sd!r}"


LabelColumn = ClassColumn | NumberColumn
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Labelled:
    """Whole cells have targets, beside those of a corruption where there is one."""

    columns: Mapping[str, LabelColumn]
    """By the name of the objective that they are the targets of; at least one."""
    corruption: Corruption | None = None
    """Of the tokens that all objectives see; None leaves the cells as they are."""


Objective = Corruption | NextToken | Labelled
"""BERT's corruption for masked language models, the next token for causal ones, labels of whole cells."""


def describe_objective(objective: Objective) -> str:
    """One line that is equal for equal objectives."""
    if isinstance(objective, Corruption):
        return f"select {objective.select}, mask {objective.mask}, random {objective.random}"
    if isinstance(objective, Labelled):
        return describe_objective(objective.corruption) if objective.corruption else "none"
    return "next token"
