"""What a person sees: a progress bar on a terminal, one line an interval elsewhere, everything in log.txt.

Warnings of Python and of libraries go the same way, and what ends a run is the last thing in log.txt.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scmf.core.errors import ScmfError

Verbosity = Literal[0, 1, 2]


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
        verbosity: lines up to this level are on the screen: 0 warnings, errors and how the run begins and ends,
            1 a line an interval and its like, 2 details. The log has all.
    """

    def __init__(self, log: Path | None, *, total: int, bar: bool | None = None, verbosity: Verbosity = 1) -> None:
        self._path = log or Path(os.devnull)
        self._file = log.open("a", encoding="utf-8") if log is not None else None
        self._verbosity = verbosity
        self._silent = log is None
        self._rich = _Screen(file=sys.stdout, highlight=False, markup=False, emoji=False)
        show = log is not None and verbosity > 0 and (sys.stdout.isatty() if bar is None else bar)
        self._bar = _progress_bar(self._rich) if show else None
        self._task: Any = self._bar.add_task("training", total=total, note="") if self._bar else None
        self._stack = ExitStack()

    def say(self, line: str | None, *, level: Verbosity = 1) -> None:
        """Print a line and keep it in the log.

        Args:
            line: nothing is said where it is None.
            level: least verbosity at which it is on the screen.
        """
        if line is not None:
            self._write(line, shown=level <= self._verbosity)

    def warn(self, what: str) -> None:
        """Say what a person has to look at, at any verbosity; yellow on a terminal."""
        self._write(f"WARNING {what}", shown=True, style="yellow")

    def _write(self, line: str, *, shown: bool, style: str | None = None) -> None:
        if self._silent:
            return
        self._log(line)
        if shown:
            self._rich.print(line, soft_wrap=True, style=style)

    def _log(self, line: str) -> None:
        """Append to the log; one that cannot be written is given up, because metrics.jsonl is the run's record."""
        if self._file is None:
            return
        try:
            self._file.write(time.strftime("%Y-%m-%d %H:%M:%S ") + line + "\n")
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        file, self._file = self._file, None
        self.warn(
            f"{error.strerror or error} while writing {self._path}: the lines that follow are on the screen alone"
        )
        try:
            if file is not None:
                file.close()
        except OSError:
            pass  # closing writes what could not be written

    def at(self, step: int, note: str | None = None) -> None:
        """Move the bar to a step; a note stays until the next one."""
        if self._bar is None:
            return
        self._bar.update(self._task, completed=step)
        if note is not None:
            self._bar.update(self._task, note=note)

    def __enter__(self) -> Self:
        if not self._silent:
            self._stack.enter_context(_heard_by(self))
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._bar:
            self._bar.stop()
        self._stack.close()
        if error is not None:
            self._log(_obituary(error))
        if self._file:
            self._file.close()


def _obituary(error: BaseException) -> str:
    """Why a run has ended, for the log; the command says it on stderr."""
    cause = error.__cause__ if isinstance(error, SystemExit) else error
    if isinstance(cause, ScmfError):
        return f"ERROR {cause}"
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return f"ERROR the run was ended: {type(error).__name__} {error}".rstrip()
    return "ERROR " + "".join(traceback.format_exception(error)).rstrip()


@contextmanager
def _heard_by(console: Console) -> Iterator[None]:
    """Have a console say warnings, what libraries log, and what ends a thread, for the time of the block."""
    handler = _Handler(console)
    logging.getLogger().addHandler(handler)
    before = threading.excepthook
    with warnings.catch_warnings():  # gives showwarning back at its end

        def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
            console.warn(f"{category.__name__}: {message} ({filename}:{lineno})")

        warnings.showwarning = show  # type: ignore[assignment]  # its last two arguments are not looked at

        def show_thread(fault: threading.ExceptHookArgs) -> None:
            name = fault.thread.name if fault.thread else "a thread"
            console.warn(f"{name} has failed: {fault.exc_type.__name__}: {fault.exc_value}")

        threading.excepthook = show_thread
        try:
            yield
        finally:
            threading.excepthook = before
            logging.getLogger().removeHandler(handler)


class _Handler(logging.Handler):
    """Passes what libraries log on to a console."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """One line a record; one that cannot be formatted is its library's fault, and not the run's."""
        try:
            self._console.warn(f"{record.name}: {record.getMessage()}")
        except Exception:
            self.handleError(record)


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
