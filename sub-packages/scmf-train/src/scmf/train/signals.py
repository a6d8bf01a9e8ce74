"""Signals by which a scheduler asks a run to end. In: SIGTERM, SIGUSR1. Out: a request, looked at between steps."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

REQUEUE = 75
"""Exit code of a run that was asked to end and has nothing left to save: sysexits' EX_TEMPFAIL."""

ASKING = (signal.SIGTERM, signal.SIGUSR1)


def end_when_asked() -> None:
    """Have the signals end this process with REQUEUE wherever no `StopSignals` catches them: there is nothing to save.

    Without it one that comes while Megatron is imported would end the run as a crash, which no scheduler puts back.
    """
    for number in ASKING:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    name = signal.Signals(number).name
    said = f"{name} outside of the training steps: nothing to save, exit code {REQUEUE}; --resume auto goes on\n"
    os.write(2, said.encode())
    os._exit(REQUEUE)  # leaving in order could wait for other ranks


class StopSignals:
    """Catches the signals for the time of the block; the step that runs is finished first."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The first one that came."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = self.received or signal.Signals(number)
