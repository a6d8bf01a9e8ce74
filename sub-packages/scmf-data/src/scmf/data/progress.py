"""How far a long job is. In: units done. Out: a bar with the time left on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_LINE_SECONDS: Final = 10.0


class Progress:
    """Counts cells (or bytes) towards a total; a context manager. Writes to stderr: stdout stays the result."""

    def __init__(self, title: str, total: int, *, unit: str = "cells") -> None:
        self._title, self._total, self._unit, self._done = title, total, unit, 0
        self._start = self._last = time.monotonic()
        self._stop: Callable[[], None] | None = None
        self._move: Callable[[int], None] = self._line

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            bar = Bar(*columns, console=Console(stderr=True), transient=True)
            task = bar.add_task(self._title, total=self._total)
            bar.start()
            self._stop, self._move = bar.stop, lambda n: bar.advance(task, n)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stop is not None:
            self._stop()

    def advance(self, n: int) -> None:
        """Note n more."""
        self._done += n
        self._move(n)

    def _line(self, _: int) -> None:
        now = time.monotonic()
        if now - self._last < _LINE_SECONDS:
            return
        self._last = now
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate
        place = f"{self._done:,}/{self._total:,} {self._unit}"
        sys.stderr.write(f"{self._title}: {place}  {rate:,.0f} {self._unit}/s  {left:.0f} s left\n")
        sys.stderr.flush()
