"""`scmf-doctor`: what this machine has, what is wrong with it, and the command that mends it. Needs no config."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from scmf.core.command import Parser
from scmf.core.errors import run_command
from scmf.core.text import counted
from scmf.train.doctor.check import Check

_EXAMPLES = """\
examples:
  scmf-doctor
  scmf-doctor --store data/store
  scmf-doctor --no-ring --json
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point; exits with 0 where runs can be trusted to work, with 1 where something is at fault."""
    run_command(doctor_command, argv)


def doctor_command(argv: Sequence[str]) -> int:
    """Run the command's body.

    Args:
        argv: arguments without the program's name.

    Returns:
        1 where a check found a fault; warnings leave it 0.
    """
    options = _parser().parse_args(argv)
    from scmf.train.doctor.examine import examine

    found: list[Check] = []
    for check in examine(store=options.store, ring=not options.no_ring):
        found.append(check)
        if not options.json:
            sys.stdout.write("\n".join(check.lines()) + "\n")
            sys.stdout.flush()  # some of them take seconds
    faults, warnings = (sum(c.state == state for c in found) for state in ("fault", "warning"))
    if options.json:
        sys.stdout.write(json.dumps([check.as_dict() for check in found], indent=2) + "\n")
    else:
        sys.stdout.write(
            f"{counted(len(found), 'check')}: {counted(faults, 'fault')}, {counted(warnings, 'warning')}\n"
        )
    return int(faults > 0)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="scmf-doctor",
        description="Say what this machine has, what is wrong with it, and what mends it. Exits with 1 at a fault.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", type=Path, metavar="DIR", help="read from this store for up to two seconds")
    parser.add_argument("--no-ring", action="store_true", help="start no ranks")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    main()
