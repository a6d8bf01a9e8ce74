"""What a run reports. In: named numbers at a step. Out: metrics.jsonl, and its mirrors.

Keys are listed in docs/metrics.md. `metrics.jsonl` is the record; everything else shows the same numbers.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from scmf.core.errors import MachineError
from scmf.train.run_directory import writing

Numbers = Mapping[str, float | int]


class MetricSink(Protocol):
    """A place that metrics go to."""

    def write(self, step: int, numbers: Numbers) -> None:
        """Record numbers of one step."""

    def rewind(self, step: int, keep: Path) -> None:
        """Move the numbers of later steps into a file of their own: a rollback takes those steps again."""

    def close(self) -> None:
        """Leave everything on disk."""


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, flushed line by line.

    Args:
        path: appended to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, numbers: Numbers) -> None:
        """Append one line. Numbers that are not finite become null, which JSON has.

        Raises:
            TrainingError: the disk is full, or gone.
        """
        clean = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **clean}) + "\n")
            self._file.flush()

    def rewind(self, step: int, keep: Path) -> None:
        """Move the lines of later steps to `keep`."""
        self._file.close()
        cut_after(self._path, step, keep=keep)
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # what could not be written has been told by write
            self._file.close()


class TensorBoardMirror:
    """TensorBoard event files with the numbers of metrics.jsonl.

    Args:
        folder: of the event files.
        first_step: events of an earlier start at this step or later are void.

    Raises:
        MachineError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of protobuf, inside tensorboard
                from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MachineError(
                "trainer.log.tensorboard is true, but tensorboard is not installed",
                where="trainer.log.tensorboard",
                fix="pip install tensorboard, or set trainer.log.tensorboard=false",
            ) from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, numbers: Numbers) -> None:
        """Add one point to every curve."""
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, step)

    def rewind(self, step: int, keep: Path) -> None:
        """Nothing: the curves show both."""

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Metrics:
    """All sinks as one; on ranks other than the first it has none.

    Args:
        record: metrics.jsonl; a run does not go on without it.
        mirrors: show the same numbers elsewhere, by name. One that fails is told of once and left out.
        warn: says a sentence to a person.
    """

    def __init__(
        self,
        record: MetricSink | None = None,
        mirrors: Mapping[str, MetricSink] | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._record = record
        self._mirrors = dict(mirrors or {})
        self._warn = warn

    def write(self, step: int, numbers: Numbers) -> None:
        """Record numbers of one step everywhere.

        Raises:
            TrainingError: metrics.jsonl cannot be written.
        """
        self._each(lambda mirror: mirror.write(step, numbers))
        if self._record is not None:
            self._record.write(step, numbers)

    def rewind(self, step: int, keep: Path) -> None:
        """Move the numbers of later steps aside."""
        self._each(lambda mirror: mirror.rewind(step, keep))
        if self._record is not None:
            self._record.rewind(step, keep)

    def _each(self, action: Callable[[MetricSink], None]) -> None:
        for name, mirror in list(self._mirrors.items()):
            try:
                action(mirror)
            except Exception as error:  # a foreign library's: whatever it is, the run is not at fault
                del self._mirrors[name]
                with contextlib.suppress(Exception):
                    mirror.close()
                said = str(error).partition("\n")[0] or "no reason given"
                self._warn(f"{name} has failed ({type(error).__name__}: {said}): metrics go on without it")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._each(lambda mirror: mirror.close())
        if self._record is not None:
            self._record.close()


def cut_after(path: Path, step: int, *, keep: Path | None = None) -> int:
    """Remove the lines of a .jsonl file that belong to later steps: a resumed run computes them again.

    Args:
        path: metrics.jsonl or cells.jsonl; may be absent. An unfinished last line is removed as well.
        step: last step to keep.
        keep: file that the removed lines go to; what it holds is replaced.

    Returns:
        Number of lines removed.
    """
    if not path.exists():
        return 0
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept: list[str] = []
    removed: list[str] = []
    for line in lines:
        (kept if line.endswith("\n") and _step_of(line) <= step else removed).append(line)
    if keep is not None and removed:
        keep.write_text("".join(removed), encoding="utf-8")
    if len(kept) < len(lines):
        aside = path.with_name(f".{path.name}")
        aside.write_text("".join(kept), encoding="utf-8")
        aside.replace(path)
    return len(lines) - len(kept)


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 0  # not ours: kept
