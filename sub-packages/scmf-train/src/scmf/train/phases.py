"""Where the time of a run goes. In: the phases that a rank enters and leaves. Out: seconds of each since last asked.

Every moment belongs to exactly one phase, the innermost that is open, or to `other`; so the parts add up to the wall
time by construction. On a GPU the host runs ahead of the device and waits for it in one place of a step, inside
`forward_backward`. What the device did there for another phase (the update that was queued before, a reduction that
was waited for) is known from events on its stream, which are read when they have long passed, and is moved from
`forward_backward` to that phase.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Protocol

PHASES: Final = ("data_wait", "forward_backward", "communication", "optimizer", "save", "validation", "other")
"""Keys of metrics.jsonl, after `time/`."""

ON_DEVICE: Final = ("communication", "optimizer")
"""Phases whose work a GPU does later, while the host waits in `forward_backward`."""


class Mark(Protocol):
    """A moment on a device's stream."""

    def passed(self) -> bool:
        """Whether the device has come by; does not wait."""

    def seconds_until(self, later: Any) -> float:
        """Seconds between two moments that have passed."""


class Clock:
    """The time of one rank, by phase.

    Args:
        mark: notes a moment on the device's stream; None where the host does the work itself.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, *, mark: Callable[[], Mark] | None = None, now: Callable[[], float] = time.perf_counter) -> None:
        self._mark = mark
        self._now = now
        self._open = ["other"]
        self._since = now()
        self._host = dict.fromkeys(PHASES, 0.0)
        self._marks: list[tuple[str, float, Mark, Mark]] = []
        self.ranges: Callable[[str], AbstractContextManager[Any]] = lambda _: nullcontext()
        """Shows a phase to a profiler as well."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time of the block to a phase; one that is opened inside of it takes its own part.

        Args:
            name: one of PHASES.
        """
        begun = self._mark() if self._mark is not None and name in ON_DEVICE else None
        self._enter(name)
        entered = self._since
        try:
            with self.ranges(name):
                yield
        finally:
            self._leave()
            if begun is not None and self._mark is not None:
                self._marks.append((name, self._since - entered, begun, self._mark()))

    def begin(self) -> None:
        """Begin to count, with no phase open, whatever was interrupted before."""
        self._open, self._marks = ["other"], []
        self.take()

    def _enter(self, name: str) -> None:
        self._charge()
        self._open.append(name)

    def _leave(self) -> None:
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        now = self._now()
        self._host[self._open[-1]] += now - self._since
        self._since = now

    def take(self) -> dict[str, float]:
        """Seconds of every phase since the last call; their sum is the wall time between the two."""
        self._charge()
        seconds, self._host = self._host, dict.fromkeys(PHASES, 0.0)
        for name, late in self._late().items():
            moved = min(late, seconds["forward_backward"])
            seconds[name] += moved
            seconds["forward_backward"] -= moved
        return seconds

    def _late(self) -> dict[str, float]:
        """Seconds that a device went on with phases after the host had left them; those not over come the next time."""
        late = dict.fromkeys(ON_DEVICE, 0.0)
        still = []
        for name, on_host, begun, ended in self._marks:
            if ended.passed():
                late[name] += max(0.0, begun.seconds_until(ended) - on_host)
            else:
                still.append((name, on_host, begun, ended))
        self._marks = still
        return late


def listen_to_waits(config: Any, clock: Clock, *, ranks: int) -> None:
    """Have Megatron's schedules charge their waits for other ranks to communication.

    They are the exchanges between pipeline stages and the sums of gradients at the end of the backward pass, with the
    small work there that follows them. Exchanges inside a layer (tensor and sequence parallelism, FSDP's weights) and
    sums that overlap the backward pass stay in `forward_backward`: only a profiler can tell those.

    Args:
        config: of a stage, whose `timers` and `finalize_model_grads_func` the schedules use.
        clock: of this rank.
        ranks: of the run; alone, nobody is waited for.
    """
    if ranks == 1:
        return
    config.timers = _Timers(clock)
    finalize = config.finalize_model_grads_func

    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock.phase("communication"):
            return finalize(*args, **kwargs)

    config.finalize_model_grads_func = timed


class _Timers:
    """What Megatron's schedules ask for as `config.timers`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: list[AbstractContextManager[None]] = []

    def __call__(self, name: str, log_level: int = 0) -> _Timers | _Deaf:
        """The timer of a name; one that does nothing where no rank is waited for."""
        del log_level
        return self if "send" in name or "recv" in name else _DEAF

    def start(self, *, barrier: bool = False) -> None:
        """A wait for others begins."""
        del barrier
        self._open.append(self._clock.phase("communication"))
        self._open[-1].__enter__()

    def stop(self, *, barrier: bool = False) -> None:
        """It has ended."""
        del barrier
        self._open.pop().__exit__(None, None, None)


class _Deaf:
    """A timer that nobody reads."""

    def start(self, *, barrier: bool = False) -> None:
        """Nothing."""

    def stop(self, *, barrier: bool = False) -> None:
        """Nothing."""


_DEAF: Final = _Deaf()
