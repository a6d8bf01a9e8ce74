"""Errors for people: what happened, where, and what to do about it; three lines, never a traceback.

In: an exception raised anywhere. Out: the three lines on stderr and the exit code of a command.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

_ASIDE: Final = re.compile(r"^\.(.+?)(?:\.\d+)?\.(?:partial|unfinished|new|arriving|replaced|\d+)$")
"""Names under which the packages write what is not whole yet."""
_ITEM: Final = re.compile(r"\n(?=  \d+\. )")
"""Where a list of faults goes on: the only line breaks that a `what` may have."""


class ScmfError(Exception):
    """A fault that the user can mend.

    Args:
        what: one sentence with every number that matters.
        where: the file, array, key or command at fault.
        fix: what to do next, as a command where there is one.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        what = "\n".join(map(legible, _ITEM.split(self.what)))
        return f"{what}\n  where: {legible(self.where)}\n  fix:   {legible(self.fix)}"

    def __reduce__(self) -> tuple[Callable[..., ScmfError], tuple[object, ...]]:
        # Keyword-only arguments do not survive the default pickling between processes.
        return _rebuild, (type(self), self.what, self.where, self.fix)


class ConfigError(ScmfError):
    """A configuration that cannot be run: unknown key, wrong type, value out of range, sections that disagree."""


class InputError(ScmfError):
    """A source file that is not what it has to be: not raw counts, no gene ids, unreadable."""


class StoreError(ScmfError):
    """A store that is missing, incomplete or damaged."""


class VocabularyError(ScmfError):
    """A vocabulary artefact that is missing, damaged or does not fit the data or the model."""


class CheckpointError(ScmfError):
    """A checkpoint that is missing, damaged or belongs to another model or run."""


class MachineError(ScmfError):
    """What the configuration asks for, this machine does not have."""


class TrainingError(ScmfError):
    """A run that cannot go on: losses that stay non-finite, a rank that is gone."""


def legible(text: str) -> str:
    """Text on one line that a terminal shows and does not obey: line breaks and control characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _rebuild(kind: type[ScmfError], what: str, where: str, fix: str) -> ScmfError:
    return kind(what, where=where, fix=fix)


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command's body and leave with its exit code; a user's mistake prints three lines.

    `--debug` anywhere in the arguments shows the traceback instead. An operating-system error that names a
    file (missing, no permission, disk full) is a user's mistake as well.

    Args:
        main: takes the arguments without `--debug`, returns the exit code.
        argv: defaults to the command line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if sys.stdout is None:  # closed by whoever started the command: nobody reads it
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  as long as the process
    try:
        code = main(arguments)
        sys.stdout.flush()
    except ScmfError as error:
        code = _report(error, debug=debug)
    except BrokenPipeError:
        # The reader (head, less) has gone: not a fault. Python would complain again while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        sys.stderr.write("stopped by Ctrl-C\n")
        code = 130
    except OSError as error:
        code = _report(describe_os_error(error), debug=debug)
    sys.exit(code)


def lasting_path(path: str) -> str:
    """A path as the user knows it: files and folders are written aside (`.NAME.partial`) and renamed when whole.

    Args:
        path: of a file that could not be written.
    """
    return "/".join(_ASIDE.sub(r"\1", part) for part in path.split("/"))


def describe_os_error(error: OSError) -> ScmfError:
    """Turn an operating-system error into one with a place and a way out."""
    place = lasting_path(str(error.filename)) if error.filename else _nameless()
    fixes = {
        "ENOSPC": "free space on that disk or name another folder, then run the same command again",
        "EDQUOT": "free part of your quota or name another folder, then run the same command again",
        "EACCES": "check the permissions, or name another path that you may read and write",
        "EROFS": "that file system is read-only: name another folder",
        "ENOENT": "check the path for a typing error",
        "EEXIST": "a part of that path is a file where a folder has to be: name another",
        "EISDIR": "that is a folder: name a file in it, or another",
        "ENOTDIR": "a part of that path is a file where a folder has to be: name another",
        "ENAMETOOLONG": "name a shorter one",
        "ELOOP": "links on that path lead in circles: name the file itself",
        "EFBIG": "lift the limit on file sizes (ulimit -f) or name another disk, then run the same command again",
    }
    import errno

    name = errno.errorcode.get(error.errno or 0, "")
    what = error.strerror or str(error)
    return ScmfError(what, where=place, fix=fixes.get(name, "see the message above; --debug shows where it happened"))


def _nameless() -> str:
    """Where a write has failed of which the system says no file: on standard output, where that goes to a file."""
    try:
        output = str(Path("/proc/self/fd/1").readlink())
    except OSError:  # no Linux
        output = ""
    if not output.startswith("/"):  # a pipe
        return "a file that the system did not name"
    return f"standard output ({output}), or a file that the system did not name"


def _report(error: ScmfError, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    first, *rest = str(error).split("\n")
    sys.stderr.write(f"error: {first}\n" + "".join(f"{line}\n" for line in rest))
    return 1
