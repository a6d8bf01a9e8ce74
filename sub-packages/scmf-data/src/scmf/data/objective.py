"""What a batch hides or shifts, so that there is something to predict. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from scmf.data.masks import Corruption


@dataclass(frozen=True, slots=True)
class NextToken:
    """Every token is to be predicted from those before it: inputs are shifted by one, and nothing is hidden."""


Objective = Corruption | NextToken
"""BERT's corruption for masked language models, the next token for causal ones."""


def describe_objective(objective: Objective) -> str:
    """One line that is equal for equal objectives."""
    if isinstance(objective, Corruption):
        return f"select {objective.select}, mask {objective.mask}, random {objective.random}"
    return "next token"
