"""What a task asks of the data. In: `model.task`. Out: what the batches hide or shift, and how much is predicted."""

from __future__ import annotations

from scmf.core.config import require
from scmf.data.masks import Corruption
from scmf.data.objective import NextToken, Objective
from scmf.model.config import ClmTask, MlmTask, TaskConfig


def objective_of(task: TaskConfig) -> Objective:
    """What the data hides or shifts for a task.

    Raises:
        ConfigError: a class of the user's own, which is derived from no task that this knows.
    """
    if isinstance(task, ClmTask):
        return NextToken()
    task = require(task, MlmTask, key="model.task")
    return Corruption(select=task.select, mask=task.mask, random=task.random)


def predicted_share(objective: Objective) -> float:
    """Share of the tokens that is predicted: what the vocabulary head costs."""
    return objective.select if isinstance(objective, Corruption) else 1.0
