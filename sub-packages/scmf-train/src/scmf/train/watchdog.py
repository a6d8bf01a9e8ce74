"""A run that makes no progress. In: a beat a step. Out: where every rank stands, on stderr, and an end of the run.

A rank that waits for ever in a collective, a file system or a lock cannot say so itself; a thread does. Ranks go in
step, so that all of them fall silent together: each prints its own stacks and waits for the others' before it ends.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Self

HUNG = 124
"""Exit code of a run that made no progress: what timeout(1) uses."""
_LAST_WORDS = (2.0, 60.0)
"""Least and most seconds that a rank waits for the others' stacks."""


class Watchdog:
    """Ends this process when no beat has come for too long.

    Args:
        seconds: without a beat; None never ends it.
        rank: of this process.
        size: ranks of the run.
    """

    def __init__(self, seconds: float | None, *, rank: int, size: int) -> None:
        self._seconds = seconds
        self._who = f"rank {rank} of {size}"
        self._done = threading.Event()
        self._since, self._doing = time.monotonic(), "the start"
        self._thread = threading.Thread(target=self._watch, name="scmf-watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self.beat("the start")
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._seconds is not None:
            faulthandler.cancel_dump_traceback_later()
            self._thread.join()

    def beat(self, doing: str) -> None:
        """There is progress.

        Args:
            doing: what begins now, for the report.
        """
        self._since, self._doing = time.monotonic(), doing
        if self._seconds is not None:
            # For the case that the interpreter itself is held, so that no thread of it can run: from C, then exit(1).
            faulthandler.dump_traceback_later(self._seconds + 2 * self._grace, exit=True, file=2)

    @property
    def _grace(self) -> float:
        return min(max((self._seconds or 0.0) / 4, _LAST_WORDS[0]), _LAST_WORDS[1])

    def _watch(self) -> None:
        seconds = self._seconds or 0.0
        while not self._done.wait(min(seconds / 10, 5.0)):
            if time.monotonic() - self._since > seconds:
                self._report()
                self._done.wait(self._grace)
                if time.monotonic() - self._since > seconds and not self._done.is_set():
                    os._exit(HUNG)  # leaving in order would wait for what hangs

    def _report(self) -> None:
        head = (
            f"error: {self._who} has made no progress for {self._seconds:g} s\n"
            f"  where: {self._doing}; its threads stand as below\n"
            "  fix:   see where the ranks differ; then go on with --resume auto, or raise trainer.faults.hang_seconds\n"
        )
        os.write(2, (head + _stacks(self._who)).encode())  # in one piece: other ranks write as well


def _stacks(who: str) -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    pieces = []
    for ident, frame in sys._current_frames().items():  # noqa: SLF001  documented; there is no other way
        if ident != threading.get_ident():
            pieces += [f"{who}, thread {names.get(ident, ident)}:\n", *traceback.format_stack(frame)]
    return "".join(pieces)
