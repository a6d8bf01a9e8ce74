"""Questions to a Python process of its own. In: code that prints JSON. Out: the answer, or how it failed.

Packages that are half installed end the process that imports them, some by a signal; and torch takes seconds that
the other checks need not wait for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_SECONDS = 120.0
_LAST_WORDS_SECONDS = 40.0
"""torchrun gives its ranks 30 s to end before it kills them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process said."""

    value: Any = None
    """What it printed as JSON on its last line; None where it failed."""
    failure: str | None = None
    """Its last words, or the signal that ended it; None where it answered."""


def ask(*words: str, seconds: float = _SECONDS, **environment: str) -> Answer:
    """Run Python with these words, and read the JSON of its last line.

    Args:
        words: arguments of Python: `-c CODE`, or `-m MODULE ...`.
        seconds: after which it is ended.
        environment: changes to this process's environment.
    """
    try:
        done = _run([sys.executable, "-P", *words], seconds, {**os.environ, **environment})
    except subprocess.TimeoutExpired:
        return Answer(failure=f"no answer after {seconds:.0f} s")
    except OSError as error:
        return Answer(failure=f"cannot start Python: {error}")
    if done.returncode != 0:
        return Answer(failure=_last_words(done))
    try:
        return Answer(json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        return Answer(failure=f"it printed {done.stdout[-200:]!r}")


def _run(words: list[str], seconds: float, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As subprocess.run, but a process that is late is asked to end before it is killed.

    torchrun ends its ranks when it is asked to; killed at once it would leave them waiting for each other.
    """
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    with subprocess.Popen(words, env=environment, **pipes) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:  # Ctrl-C too
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_LAST_WORDS_SECONDS)
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def try_import(*modules: str) -> str | None:
    """Why modules cannot be imported, one after the other in one process; None where they can."""
    lines = "; ".join(f"import {module}" for module in modules)
    return ask("-c", f"{lines}; print('null')").failure


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.returncode} without a word"
