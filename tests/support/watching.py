"""Observers of the tests: what they are told they write into the run directory, so that other processes can read it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from scmf.train.observer import Answer, Event, Observer, StepEvent, Stop, ValidationEvent


class Diary:
    """Writes one line for every event into observed.RANK.jsonl."""

    every_rank = True

    def __init__(self, *, name: str = "observed") -> None:
        self.name = name

    def on_step(self, report: Any) -> None:
        """After a step."""
        self._note("on_step", report)

    def on_validation(self, report: Any) -> None:
        """After a validation."""
        self._note("on_validation", report)

    def on_checkpoint(self, report: Any) -> dict[str, float]:
        """After a save."""
        self._note("on_checkpoint", report)
        return {"saves": report.saved_step}

    def on_end(self, report: Any) -> dict[str, float]:
        """At the end."""
        self._note("on_end", report)
        return {"ended": 1}

    def _note(self, method: str, report: Event) -> None:
        plain = {
            field.name: getattr(report, field.name) for field in dataclasses.fields(report) if field.name != "numbers"
        }
        numbers = sorted(getattr(report, "numbers", ()))
        with (report.directory / f"{self.name}.{report.rank}.jsonl").open("a") as file:
            file.write(json.dumps({"method": method, **plain, "numbers": numbers}, default=_text) + "\n")


class Perplexities(Observer):
    """Numbers of the user's own, at logged steps and at validations; derived from the protocol."""

    def on_step(self, report: StepEvent) -> Answer:
        """Its own clock."""
        return {"cells_per_token": report.cells / report.tokens} if report.logged else None

    def on_validation(self, report: ValidationEvent) -> Answer:
        """Nats to bits."""
        return {"bits": report.numbers["val/loss"] * 1.4426950408889634}


class StopAt:
    """Asks the run to end."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, report: StepEvent) -> Answer:
        """At its step."""
        return Stop("the budget is spent", metrics={"spent": 1}) if report.step == self.step else None


class Exits:
    """Ends Python, as a script would."""

    def on_step(self, report: Event) -> None:
        """Whatever the step."""
        raise SystemExit(0 * report.step)


class Breaks:
    """Raises something in a method, at and after a step."""

    def __init__(self, *, method: str, step: int = 0, words: str = "no more\ncoffee") -> None:
        self.step, self.words = step, words
        setattr(self, method, self._break)

    def on_step(self, report: Event) -> None:
        """Replaced where asked for."""

    def _break(self, report: Event) -> None:
        if report.step >= self.step:
            raise ValueError(self.words)


class Answers:
    """Gives an answer that is none."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def on_step(self, report: Event) -> Any:
        """The wrong thing."""
        del report
        return self.answer


class Misspelt:
    """Has a method that nothing calls."""

    def on_stpe(self, report: Event) -> None:
        """Never."""


class Silent:
    """Has none."""


class Unmakeable:
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no licence")

    def on_step(self, report: Event) -> None:
        """Never."""


def _text(value: object) -> str:
    if isinstance(value, Path):
        return value.name
    raise TypeError(type(value).__name__)
