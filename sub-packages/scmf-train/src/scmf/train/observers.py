"""The observers of a run at work. In: their entries in the configuration, events. Out: numbers, a wish to end, a fault.

They are called in the order in which the configuration names them. After one has failed with `on_error: stop`, none
is called any more: the run saves and ends.
"""

from __future__ import annotations

import inspect
import math
import numbers
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from scmf.core.config_kind import KindError, import_named
from scmf.core.errors import ConfigError, TrainingError, legible
from scmf.core.near_word import nearest
from scmf.core.text import brief
from scmf.train.engine import StepReport
from scmf.train.observer import CheckpointEvent, Event, Observer, StepEvent, Stop
from scmf.train.observer_config import ObserverConfig
from scmf.train.saver import SaveReport

METHODS: Final = ("on_step", "on_validation", "on_checkpoint", "on_end")


@dataclass(slots=True)
class _Watcher:
    """One observer, made."""

    entry: ObserverConfig
    observer: object
    failures: dict[str, int] = field(default_factory=dict)
    """By method."""


class Observers:
    """All observers of one rank.

    Args:
        watchers: made by `make_observers`.
        rank: this one.
        warn: says a line for people; on the first rank it is kept in the log.
    """

    def __init__(
        self, watchers: Sequence[_Watcher] = (), *, rank: int = 0, warn: Callable[[str], None] = print
    ) -> None:
        self._watchers = tuple(watchers)
        self._rank = rank
        self._warn = warn
        self._numbers: dict[str, tuple[float, _Watcher]] = {}
        self.fault: TrainingError | None = None
        """Why the run has to end with an error."""
        self.stop: str | None = None
        """Why one of them asks the run to end."""

    def tell(self, method: str, make: Callable[[], Event]) -> None:
        """Call a method of every observer that has it.

        Args:
            method: one of `METHODS`.
            make: its argument, made only where there is an observer.
        """
        if not self._watchers or self.fault is not None:
            return
        event = make()
        for watcher in self._watchers:
            call = getattr(watcher.observer, method, None)
            if call is None:
                continue
            try:
                self._take(call(event), watcher)
            except (Exception, SystemExit) as error:  # whatever the user's code raises, it is that code's fault
                if self._failed(watcher, method, event, error):
                    return

    def take_numbers(self) -> dict[str, float]:
        """What they have given for metrics.jsonl since the last call; nothing on ranks other than the first."""
        found = {name: number for name, (number, _) in self._numbers.items()}
        self._numbers = {}
        return found if self._rank == 0 else {}

    def _take(self, answer: object, giver: _Watcher) -> None:
        """Raises TypeError or ValueError for an answer that is none."""
        if answer is None:
            return
        given = answer.metrics if isinstance(answer, Stop) else answer
        if not isinstance(given, Mapping):
            raise TypeError(f"the answer is a {type(answer).__name__}; it may be None, a dict of numbers, or a Stop")
        for name, value in given.items():
            key, number = f"user/{name}", _number(name, value)
            _, before = self._numbers.get(key, (0.0, giver))
            if before is not giver:
                raise ValueError(f"{key} has been given by observer {before.entry.observer} already")
            self._numbers[key] = number, giver
        if isinstance(answer, Stop):
            self.stop = self.stop or str(answer.why)

    def _failed(self, watcher: _Watcher, method: str, event: Event, error: BaseException) -> bool:
        """Whether the run has to end, so that nobody is told any more."""
        name = watcher.entry.observer
        what = f"observer {name} failed in {method} at step {event.step:,}: {_sentence(error)}"
        if watcher.entry.on_error == "report":
            times = watcher.failures[method] = watcher.failures.get(method, 0) + 1
            if math.log10(times).is_integer():  # the first, the tenth, the hundredth time
                often = "" if times == 1 else f" ({times:,} times so far)"
                place = _place(error, getattr(watcher.observer, method))
                self._warn(f"{what}, {place}{often}; the run goes on (on_error: report)")
            return False
        self.fault = TrainingError(
            what,
            where=_place(error, getattr(watcher.observer, method)),
            fix="mend it and go on with --resume auto (the run has saved), or give it on_error: report in "
            "trainer.observers",
        )
        return True


def step_event(report: StepReport, *, logged: bool, **here: Any) -> StepEvent:
    """What observers see of a step.

    Args:
        report: of the engine.
        logged: whether metrics.jsonl gets a line anyway.
        here: the fields of `Event`.
    """
    return StepEvent(
        **here,
        loss=report.loss.mean,
        grad_norm=report.grad_norm,
        lr=report.lr,
        cells=report.cells,
        tokens=report.loss.tokens,
        seconds=report.seconds,
        logged=logged,
    )


def checkpoint_event(report: SaveReport, **here: Any) -> CheckpointEvent:
    """What observers see of a save that went well.

    Args:
        report: of the saver.
        here: the fields of `Event`.
    """
    return CheckpointEvent(**here, saved_step=report.step, path=report.path, seconds=report.seconds, bytes=report.bytes)


def find_classes(entries: Sequence[ObserverConfig]) -> tuple[type, ...]:
    """Import the class of every entry, and see that it can be made and told.

    Raises:
        ConfigError: no such module or class, a method that is misspelt, or settings that the class does not take.
    """
    return tuple(_find(entry, f"trainer.observers[{number}]") for number, entry in enumerate(entries))


def make_observers(
    entries: Sequence[ObserverConfig], classes: Sequence[type], *, rank: int, warn: Callable[[str], None]
) -> Observers:
    """Make the observers that live on this rank.

    Args:
        entries: of the configuration.
        classes: of `find_classes`.
        rank: this one.
        warn: says a line for people.

    Raises:
        ConfigError: the class raises something when it is made.
    """
    watchers = []
    for number, (entry, cls) in enumerate(zip(entries, classes, strict=True)):
        if rank and not getattr(cls, "every_rank", False):
            continue
        try:
            watchers.append(_Watcher(entry, cls(**entry.settings)))
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"observer {entry.observer} cannot be made: {_sentence(error)}",
                where=f"trainer.observers[{number}], {_place(error, cls)}",
                fix="mend the class or its settings",
            ) from error
    return Observers(watchers, rank=rank, warn=warn if rank == 0 else _warn_aside)


def _find(entry: ObserverConfig, key: str) -> type:
    module_name, _, class_name = entry.observer.rpartition(".")
    try:
        module = import_named(module_name, entry.observer)
    except KindError as error:
        raise ConfigError(error.what, where=key, fix=error.fix) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        names = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and set(_methods(value)) & {*METHODS}
        ]
        is_what = "has no" if found is None else "says something else than a class by the name of"
        raise ConfigError(
            f"{entry.observer}: module {module_name} {is_what} {class_name}",
            where=key,
            fix=f"classes of that module that would do: {', '.join(names) or 'none'}",
        )
    _refuse_unknown_methods(entry, found, key)
    _refuse_settings(entry, found, key)
    return found


def _methods(cls: type) -> list[str]:
    """Names of its methods that look like those of an observer; `Observer`'s own, which do nothing, are none."""
    names = [name for name in dir(cls) if name.startswith("on_")]
    return [name for name in names if getattr(cls, name) is not getattr(Observer, name, None)]


def _refuse_unknown_methods(entry: ObserverConfig, cls: type, key: str) -> None:
    """A misspelt method would never be called, and nobody would know."""
    methods = _methods(cls)
    strange = [name for name in methods if name not in METHODS]
    if methods and not strange:
        return
    near = nearest(strange[0], METHODS) if strange else None
    what = f"a method {strange[0]}, which nothing calls" if strange else "none of the methods of an observer"
    raise ConfigError(
        f"{entry.observer} has {what}; a run calls {', '.join(METHODS)}",
        where=key,
        fix=f"did you mean {near}?" if near else "see docs/observers.md; a helper's name should not begin with on_",
    )


def _refuse_settings(entry: ObserverConfig, cls: type, key: str) -> None:
    try:
        signature = inspect.signature(cls)
    except ValueError:  # of a class written in C: it will say so itself
        return
    try:
        signature.bind(**entry.settings)
    except TypeError as error:
        raise ConfigError(
            f"{entry.observer}{signature} cannot be made with these settings: {error}",
            where=f"{key}.settings",
            fix=f"its settings may be: {', '.join(signature.parameters) or 'none'}",
        ) from error


def _number(name: object, value: object) -> float:
    if not isinstance(name, str) or not name or not legible(name) == name:
        raise TypeError(f"{name!r} is no name of a number")
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        item = getattr(value, "item", None)  # of a tensor or array with one element
        if item is None or getattr(value, "size", None) == 0:
            raise TypeError(f"{name} is {type(value).__name__}, not a number")
        value = item()
    return float(value)  # type: ignore[arg-type]  # a Real, or what float() refuses itself


def _sentence(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return brief(legible(f"{type(error).__name__}: {text[0]}" if text else type(error).__name__))


def _place(error: BaseException, called: object) -> str:
    """File and line in which it was raised; where that is here, because of an answer, those of what was called."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    if frames:
        return f"{frames[-1].filename}, line {frames[-1].lineno}"
    code = getattr(called, "__code__", None)
    return f"{code.co_filename}, line {code.co_firstlineno}" if code is not None else str(called)


def _warn_aside(line: str) -> None:
    """On ranks that have no log."""
    sys.stderr.write(f"WARNING {line}\n")
