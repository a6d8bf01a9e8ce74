"""The files of a run that have one line an event. In: what has happened. Out: a line; or why the run has to stop.

A run that cannot write what it does is not worth its electricity: it saves, and stops before its next step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scmf.core.errors import ScmfError
from scmf.train.agreement import attempt
from scmf.train.run_directory import RunDirectory, writing
from scmf.train.saver import SaveReport


class Records:
    """metrics.jsonl, cells.jsonl and saves.jsonl; written by the first rank.

    Args:
        directory: of the run.
        cell_ids: keep the ids of every step's cells.
        first: whether this is the first rank.
    """

    def __init__(self, directory: RunDirectory, *, cell_ids: bool, first: bool) -> None:
        self._directory = directory
        self._cell_ids = cell_ids and first
        self._first = first
        self.fault: ScmfError | None = None
        """Why a line could not be written, the first time; on this rank."""

    def write(self, action: Callable[[], None]) -> None:
        """Write something, and remember where that fails."""
        _, fault = attempt(action)
        self.fault = self.fault or fault

    def cells(self, step: int, cell_ids: list[int]) -> None:
        """The cells of a step, in their order, where they are asked for."""
        if self._cell_ids:
            self.write(lambda: append_line(self._directory.cells, {"step": step, "cell_ids": cell_ids}))

    def save(self, report: SaveReport) -> None:
        """A save that has ended."""
        if self._first:
            self.write(lambda: append_line(self._directory.saves, report.numbers()))


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one object to a .jsonl file.

    Raises:
        TrainingError: the disk is full, or gone.
    """
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
