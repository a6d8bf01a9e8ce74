"""What a task asks of data and losses. In: `model.task`. Out: what batches hide, shift or carry; how losses add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from scmf.core.config import require
from scmf.core.errors import ConfigError
from scmf.data.labels import Labels
from scmf.data.masks import Corruption
from scmf.data.objective import ClassColumn, LabelColumn, Labelled, NextToken, NumberColumn, Objective
from scmf.data.step_stream import Labelling, StepStream
from scmf.model.task import CellTask, ClassifyTask, ClmTask, MlmTask, RegressTask, SeveralTask, TaskConfig
from scmf.train import losses
from scmf.train.config import MainConfig


def objective_of(task: TaskConfig) -> Objective:
    """What the data hides, shifts or carries for a task.

    Raises:
        ConfigError: a class of the user's own, which is derived from no task that this knows.
    """
    if isinstance(task, ClmTask):
        return NextToken()
    if isinstance(task, MlmTask):
        return _corruption(task)
    columns = {name: _column(one) for name, one in task.objectives.items() if isinstance(one, CellTask)}
    others = {name: one for name, one in task.objectives.items() if name not in columns}
    corruption = None
    for name, one in others.items():
        key = f"model.task.tasks.{name}" if isinstance(task, SeveralTask) else "model.task"
        corruption = _corruption(require(one, MlmTask, key=key))
    return Labelled(columns, corruption) if columns or corruption is None else corruption


def _corruption(task: MlmTask) -> Corruption:
    return Corruption(select=task.select, mask=task.mask, random=task.random)


def _column(task: CellTask) -> LabelColumn:
    """Where the targets of a task about whole cells come from."""
    if isinstance(task, ClassifyTask):
        return ClassColumn(task.column, task.classes)
    number = require(task, RegressTask, key="model.task")
    return NumberColumn(number.column, number.mean, number.sd)


def predicted_share(objective: Objective) -> float:
    """Share of the tokens that is predicted: what the vocabulary head costs."""
    if isinstance(objective, Labelled):
        return objective.corruption.select if objective.corruption else 0.0
    return objective.select if isinstance(objective, Corruption) else 1.0


def losses_of(task: TaskConfig) -> losses.Objectives:
    """How the losses of a task are added up, in the order in which the model gives them."""
    weights = task.weight_of if isinstance(task, SeveralTask) else lambda _: 1.0
    each = tuple(losses.Objective(name, _asks(one), weights(name)) for name, one in task.objectives.items())
    return losses.Objectives(each, weighted=isinstance(task, SeveralTask))


def _asks(task: TaskConfig) -> losses.Asks:
    if not isinstance(task, CellTask):
        return "tokens"
    return "classes" if isinstance(task, ClassifyTask) else "numbers"


def with_labels(config: MainConfig, stream: StepStream) -> MainConfig:
    """The config with what the training cells have decided written out: classes, means, standard deviations.

    Args:
        config: checked.
        stream: opened for its task.

    Raises:
        ConfigError: the task is about labels, and the stream has none.
    """
    task = config.model.task
    labels: Mapping[str, Labels] = stream.labels if isinstance(stream, Labelling) else {}
    known = {}
    for name, one in task.objectives.items():
        if isinstance(one, CellTask):
            known[name] = one.replace(**_known(labels[name].column)) if name in labels else _refuse(name, config)
    if not known:
        return config
    whole = task.replace(tasks={**task.tasks, **known}) if isinstance(task, SeveralTask) else known[task.kind]
    return config.replace(model=config.model.replace(task=whole))


def _refuse(name: str, config: MainConfig) -> NoReturn:
    raise ConfigError(
        f"the objective {name} is about labels of cells, and data.kind={config.data.kind} has none",
        where="model.task",
        fix="write data.kind: cells, derive your class from CellsConfig, or give its stream a property `labels`",
    )


def _known(column: LabelColumn) -> dict[str, Any]:
    """Keys of a task that a column has decided."""
    if isinstance(column, ClassColumn):
        return {"classes": column.classes}
    return {"mean": column.mean, "sd": column.sd}
