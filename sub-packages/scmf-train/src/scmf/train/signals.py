"""Signals by which a scheduler asks a run to end. In: SIGTERM, SIGUSR1. Out: a request, looked at between steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

REQUEUE = 75
"""Exit code of a run that has saved because it was asked to end and has steps left: sysexits' EX_TEMPFAIL."""

ASKING = (signal.SIGTERM, signal.SIGUSR1)


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
