"""`model.task`: what a model is trained to do, one thing or several with weights. Imports no torch, no megatron."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scmf.core.config import Variant
from scmf.core.config_fault import Fault
from scmf.core.config_kind import Kinds
from scmf.core.near_word import nearest

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
OBJECTIVE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""Names of objectives are parts of metric keys and of weights' names in checkpoints."""


class TaskConfig(Variant):
    """Base of every task: what is hidden from the model, and what it is asked for."""

    causal: ClassVar[bool | None] = None
    """Whether tokens may see earlier ones only; None where either backbone will do."""
    mlm_head: ClassVar[bool] = False
    """Whether the model has BERT's head over the vocabulary, trained or not."""

    @property
    def objectives(self) -> Mapping[str, TaskConfig]:
        """What is trained at once, by name: this task alone, under the name of its kind."""
        return {self.kind: self}

    def head_parameters(self, hidden: int, rows: int) -> int:
        """Trained numbers of the task's head, the tied embedding matrix not counted.

        Args:
            hidden: width.
            rows: of the embedding matrix, padding included.
        """
        del hidden, rows
        return 0


class MlmTask(TaskConfig, kind="mlm"):
    """Masked language model: predict the tokens that were corrupted."""

    causal = False
    mlm_head = True
    select: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15
    """Share of a cell's tokens chosen as targets. Source: BERT."""
    mask: Probability = 0.80
    """Of the chosen, the share replaced by <mask>. Source: BERT."""
    random: Probability = 0.10
    """Of the chosen, the share replaced by a random gene; the rest is kept. Source: BERT (BioNeMo's recipes: 0.02)."""

    def faults(self) -> Iterator[Fault]:
        """A chosen token is masked, replaced or kept: three shares of one."""
        yield from super().faults()
        if self.mask + self.random > 1.0:
            yield Fault(
                "random",
                f"model.task.mask={self.mask} and model.task.random={self.random} are shares of the same tokens "
                "and sum to more than 1",
                f"use random: {round(1.0 - self.mask, 6)} or less",
            )

    def head_parameters(self, hidden: int, rows: int) -> int:
        """BERT's: a dense layer and a norm, then a bias for every token."""
        return mlm_head_parameters(hidden, rows)


class ClmTask(TaskConfig, kind="clm"):
    """Causal language model: predict every token from the ones before it."""

    causal = True
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target's probability that is spread over the vocabulary in training. Transformer: 0.1, GPT-2: 0."""


class CellTask(TaskConfig):
    """Base of the tasks about whole cells: one prediction a cell, from its pooled hidden states."""

    causal = False
    mlm_head = True
    column: Annotated[str, Field(min_length=1)]
    """Column of obs; cells whose value is missing have no target."""
    pool: Literal["mean", "first"] = "mean"
    """What stands for a cell: the mean over all its tokens, or its first token (<cls> of geneformer-v2)."""

    @property
    def outputs(self) -> int:
        """Numbers that the head gives for a cell; 0 while they are not known."""
        return 1

    def head_parameters(self, hidden: int, rows: int) -> int:
        """A dense layer and the outputs; and the head over the vocabulary, which stays in the model untrained."""
        return mlm_head_parameters(hidden, rows) + self.own_parameters(hidden)

    def own_parameters(self, hidden: int) -> int:
        """Trained numbers of the cell head alone."""
        return hidden * hidden + hidden + hidden * self.outputs


class ClassifyTask(CellTask, kind="classify"):
    """Predict a label of the cell, such as its type: cross-entropy over the classes."""

    classes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] | None = None
    """Their names in order; null takes those of the training cells, and the run's config.yaml has them written out."""

    @property
    def outputs(self) -> int:
        """The classes; 0 while they are not known."""
        return len(self.classes or ())

    def faults(self) -> Iterator[Fault]:
        """At least two classes, each once."""
        yield from super().faults()
        classes = self.classes
        if classes is None:
            return
        twice = next((name for name in classes if classes.count(name) > 1), None)
        if twice is not None:
            yield Fault("classes", f"classes names {twice!r} twice", "name each class once")
        elif len(classes) < 2:
            yield Fault(
                "classes",
                f"classes names {len(classes)}, and with fewer than two there is nothing to tell apart",
                "name at least two, or write null for all that training cells have",
            )


class RegressTask(CellTask, kind="regress"):
    """Predict a number of the cell, such as a score: squared error in standard deviations of the training cells."""

    mean: float | None = None
    """Subtracted from the column; null takes the training cells', and the run's config.yaml has it written out."""
    sd: Annotated[float, Field(gt=0.0)] | None = None
    """Divides the column after that; null takes the standard deviation of the training cells."""


ONE_OF_SEVERAL: dict[str, type[TaskConfig]] = {"mlm": MlmTask, "classify": ClassifyTask, "regress": RegressTask}


class SeveralTask(TaskConfig, kind="several"):
    """Several objectives on the same cells: the loss is the sum of weight x mean loss. With mlm, all see its masks."""

    causal = False
    mlm_head = True
    tasks: dict[str, Annotated[TaskConfig, Kinds(ONE_OF_SEVERAL)]]
    """Objectives by a name of yours, under which metrics and weights know them."""
    weights: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    """Weight of each objective's mean loss, by its name; 1 where none is given, 0 only measures."""

    @property
    def objectives(self) -> Mapping[str, TaskConfig]:
        """What is trained at once, by name."""
        return self.tasks

    def weight_of(self, name: str) -> float:
        """Weight of an objective."""
        return self.weights.get(name, 1.0)

    def head_parameters(self, hidden: int, rows: int) -> int:
        """The head over the vocabulary once, and a head for every objective about whole cells."""
        cells = (task for task in self.tasks.values() if isinstance(task, CellTask))
        return mlm_head_parameters(hidden, rows) + sum(task.own_parameters(hidden) for task in cells)

    def faults(self) -> Iterator[Fault]:
        """Names that keys can have, one corruption, weights of objectives that there are, and one that trains."""
        yield from super().faults()
        yield from self._name_faults()
        yield from self._weight_faults()
        masked = [name for name, task in self.tasks.items() if isinstance(task, MlmTask)]
        if len(masked) > 1:
            yield Fault(
                "tasks",
                f"model.task.tasks has {len(masked)} masked language models ({', '.join(masked)}), and a cell is "
                "corrupted in one way",
                f"keep one of them, for example {masked[0]}",
            )

    def _name_faults(self) -> Iterator[Fault]:
        if not self.tasks:
            yield Fault(
                "tasks", "model.task.tasks names no objective", "name one, for example tasks: {mlm: {kind: mlm}}"
            )
        for name in (name for name in self.tasks if not OBJECTIVE_NAME.fullmatch(name)):
            plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:64]
            yield Fault(
                "tasks",
                f"model.task.tasks has an objective of the name {name!r}; small letters, digits and _ make a name, "
                "a letter first",
                f"call it {plain}" if OBJECTIVE_NAME.fullmatch(plain) else "call it after its column",
            )

    def _weight_faults(self) -> Iterator[Fault]:
        for name in (name for name in self.weights if name not in self.tasks):
            near = nearest(name, self.tasks)
            yield Fault(
                f"weights.{name}",
                f"model.task.weights.{name} is the weight of no objective",
                f"{f'did you mean {near}? ' if near else ''}The objectives: {', '.join(self.tasks)}",
            )
        if self.tasks and not any(self.weight_of(name) for name in self.tasks):
            yield Fault("weights", "every weight is 0: nothing would be trained", "give one objective a weight above 0")


def mlm_head_parameters(hidden: int, rows: int) -> int:
    """Trained numbers of BERT's head without the tied embedding matrix: a dense layer, a norm, a bias a token.

    Args:
        hidden: width.
        rows: of the embedding matrix, padding included.
    """
    return hidden * hidden + hidden + 2 * hidden + rows


TASKS: dict[str, type[TaskConfig]] = {
    "mlm": MlmTask,
    "clm": ClmTask,
    "classify": ClassifyTask,
    "regress": RegressTask,
    "several": SeveralTask,
}
"""Every built-in task by its kind."""
