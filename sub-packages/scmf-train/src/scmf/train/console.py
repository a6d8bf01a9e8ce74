"""What a person sees: a progress bar on a terminal, one line an interval elsewhere, everything in log.txt."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scmf.train.run_directory import writing


class _Screen(RichConsole):
    """rich's console, which does not end the run when whoever reads the lines has gone (`| head`)."""

    def on_broken_pipe(self) -> None:
        """Fall silent; log.txt has the lines."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Console:
    """Lines and a bar of one run; silent on ranks other than the first.

    Args:
        log: file that every line is appended to, or None for silence.
        total: optimizer steps of the run.
        bar: show a progress bar; by default where stdout is a terminal.
    """

    def __init__(self, log: Path | None, *, total: int, bar: bool | None = None) -> None:
        self._path = log or Path(os.devnull)
        self._file = log.open("a", encoding="utf-8") if log is not None else None
        self._rich = _Screen(file=sys.stdout, highlight=False, markup=False, emoji=False)
        show = bool(log) and (sys.stdout.isatty() if bar is None else bar)
        self._bar = _progress_bar(self._rich) if show else None
        self._task: Any = self._bar.add_task("training", total=total, note="") if self._bar else None

    def say(self, line: str) -> None:
        """Print a line and keep it in the log."""
        if self._file is None:
            return
        with writing(self._path):
            self._file.write(time.strftime("%Y-%m-%d %H:%M:%S ") + line + "\n")
            self._file.flush()
        self._rich.print(line, soft_wrap=True)

    def at(self, step: int, note: str | None = None) -> None:
        """Move the bar to a step; a note stays until the next one."""
        if self._bar is None:
            return
        self._bar.update(self._task, completed=step)
        if note is not None:
            self._bar.update(self._task, note=note)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        if self._file:
            self._file.close()


def _progress_bar(console: RichConsole) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def describe_seconds(seconds: float) -> str:
    """`14 h`, `3 min`, `20 s`: what is left of a run, to one unit."""
    left = timedelta(seconds=round(seconds)).total_seconds()
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if left >= 2 * size:
            return f"{left / size:.0f} {unit}"
    return f"{left:.0f} s"
