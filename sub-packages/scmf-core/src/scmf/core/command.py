"""The argument parser of every command: its complaints have the three lines of every other error.

In: the words of a command line. Out: their values, or a ConfigError that names the nearest right word.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from scmf.core.errors import ConfigError
from scmf.core.near_word import nearest
from scmf.core.text import brief


class _Version(argparse.Action):
    """Print the program's version, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        from importlib.metadata import version

        sys.stdout.write(f"{parser.prog} {version('scmf-core')}\n")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """argparse's parser, raising ConfigError where argparse would print its usage and exit with 2."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        # The beginning of a flag is no flag: what it would mean changes with every flag that is added.
        super().__init__(*args, **{**settings, "allow_abbrev": False})
        if " " not in self.prog:  # the program itself, not one of its sub-commands
            self.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
        self.words: list[str] | None = None
        """The words last parsed; None before."""
        self._intermixed = False

    def parse_known_args(  # type: ignore[override]  # one signature for argparse's two overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse; keeps the words for `error`."""
        if not self._intermixed:
            self.words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def parse_known_intermixed_args(  # type: ignore[override]  # one signature for argparse's two overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse, which parses twice: the second time only what the first has left, so the words are kept here."""
        self.words = list(sys.argv[1:] if args is None else args)
        self._intermixed = True
        try:
            return super().parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and the same command with the nearest right word.

        Raises:
            ConfigError: always.
        """
        parser = _deepest(self)
        self.explain_foreign(parser)
        swaps = _misspelt_flags(parser) or _misspelt_choice(message)
        message = brief(message)
        if not swaps:
            fix = _with_flag(parser, message) or _value_of_flag(parser, message) or f"{parser.prog} --help"
            raise ConfigError(_in_words(message), where="command line", fix=fix)
        meant = "; ".join(f"{wrong}: did you mean {right}?" for wrong, right in swaps.items())
        words = shlex.join([*self.prog.split(), *(_swap(w, swaps) for w in self.words or ())])
        raise ConfigError(f"{message}; {meant}", where="command line", fix=words)

    def run_sub_command(self, argv: Sequence[str]) -> int:
        """Parse, and run the function that the sub-command reached has set as its default `run`; its exit code."""
        options = self.parse_args(argv)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)

    def explain_foreign(self, parser: Parser) -> None:
        """Hook for commands whose users bring flags of another program: raise ConfigError with what stands for them.

        Args:
            parser: of the sub-command that was reached; it knows the words.
        """

    def options(self) -> list[str]:
        """The long flags that this parser knows."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]

    def help_of(self, flag: str) -> str | None:
        """A flag with what it takes and what that means; None where it takes nothing that has a name."""
        action = next((a for a in self._actions if flag in a.option_strings), None)
        if action is None or action.metavar is None:
            return None
        names = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
        return f"{flag} {names}: {action.help}"

    def takes_words(self) -> bool:
        """Whether it asks for a word without a flag."""
        # While flags are parsed that stand between words, argparse keeps the real number elsewhere.
        numbers = (getattr(a, "save_nargs", a.nargs) for a in self._actions if not a.option_strings)
        return any(number not in ("*", "?") for number in numbers)

    def commands(self) -> list[Parser]:
        """The parsers of its sub-commands."""
        choices = [a.choices for a in self._actions if a.nargs == argparse.PARSER and isinstance(a.choices, Mapping)]
        return [parser for named in choices for parser in named.values() if isinstance(parser, Parser)]


def _deepest(parser: Parser) -> Parser:
    """The sub-command's parser, where one was reached: it knows the flags that were meant."""
    reached = [p for p in parser.commands() if p.words is not None]
    return _deepest(reached[-1]) if reached else parser


def _with_flag(parser: Parser, message: str) -> str | None:
    """The command with the missing flag before its first word; None where that word has a place of its own."""
    missing = re.search(r"(?:arguments are required:|one of the arguments) (--[\w-]+)", message)
    words = parser.words or []
    if missing is None or not words or words[0].startswith("-") or "=" in words[0] or parser.takes_words():
        return None
    return shlex.join([*parser.prog.split(), missing[1], *words])


def _value_of_flag(parser: Parser, message: str) -> str | None:
    """What a flag takes, from its help; None where no flag's value is at fault."""
    flag = re.match(r"argument (?:-\w/)?(--[\w-]+)[^:]*: (?!not allowed)", message)
    return parser.help_of(flag[1]) if flag else None


def _in_words(message: str) -> str:
    """The complaint of argparse without Python's names of types."""
    for kind, words in (("int", "whole number"), ("float", "number")):
        message = re.sub(rf"invalid {kind} value: ('.*')", rf"\1 is no {words}", message)
    return message


def _misspelt_flags(parser: Parser) -> dict[str, str]:
    """Flags that the parser does not know, each with the nearest that it knows."""
    # One dash for two; and two that a text program has made one of, as in a command that was pasted.
    given = [
        word.partition("=")[0] for word in parser.words or () if re.match(r"(--|[\u2013\u2014]|-[a-z])[A-Za-z]", word)
    ]
    unknown = [flag for flag in given if flag not in parser.options()]
    return _nearest_of(unknown, [flag for flag in parser.options() if flag not in given])


def _misspelt_choice(message: str) -> dict[str, str]:
    match = re.search(r"invalid choice: '([^']+)' \(choose from (.*)\)", message, re.DOTALL)
    return _nearest_of([match[1]], re.findall(r"[^\s',]+", match[2])) if match else {}


def _nearest_of(words: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    return {word: right for word in words if (right := nearest(word, known)) is not None}


def _swap(word: str, swaps: dict[str, str]) -> str:
    flag, equals, value = word.partition("=")
    return swaps.get(flag, flag) + equals + value
