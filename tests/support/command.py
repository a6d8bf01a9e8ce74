"""scmf's commands as a user runs them: in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.warm import warm_programs

MODULES = {"scmf-train": "scmf.train.cli_train", "scmf-recipe": "scmf.train.cli_recipe", "scmf-store": "scmf.data.cli"}
TIMEOUT_SECONDS = 300


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without a launcher's variables, one thread a rank."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


def command(name: str, *arguments: str | Path) -> list[str]:
    """The command as an argument list."""
    return [sys.executable, "-m", MODULES[name], *map(str, arguments)]


def run(name: str, *arguments: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run to the end and return what was printed, in a process forked from one that has imported everything."""
    return subprocess.run(
        [warm_programs() / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**env),
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def succeed(name: str, *arguments: str | Path, cwd: Path | None = None, **env: str) -> str:
    """Run, insist on exit code 0, and return stdout."""
    result = run(name, *arguments, cwd=cwd, **env)
    if result.returncode != 0:
        raise AssertionError(f"{name} exited with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result.stdout


def kill_when(arguments: Sequence[str | Path], ready: Callable[[], bool]) -> bool:
    """Start scmf-train and kill -9 it and its ranks as soon as `ready()`; False where it ended before.

    Args:
        arguments: of the command.
        ready: asked in a tight loop.
    """
    process = subprocess.Popen(
        [warm_programs() / "scmf-train", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if ready():
                return True
            time.sleep(0.0002)
        return False
    finally:
        process.kill()  # the server kills the run when the program that asked for it is gone
        process.communicate()  # returns when nobody holds stderr any more: the run and all its ranks are gone


def lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a .jsonl file; none where it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def last_step(run_directory: Path) -> int:
    """Step of the last line of metrics.jsonl."""
    written = lines(run_directory / "metrics.jsonl")
    return int(written[-1]["step"]) if written else 0


def curve(run_directory: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock or a memory meter says."""
    timed = ("speed/", "memory/", "time/")
    return [
        {k: v for k, v in line.items() if not k.startswith(timed)} for line in lines(run_directory / "metrics.jsonl")
    ]


def three_lines(result: subprocess.CompletedProcess[str]) -> tuple[str, str, str]:
    """What, where and fix of an error, after checking its form: three lines, no traceback, exit code not 0."""
    if result.returncode == 0 or "Traceback" in result.stderr:
        raise AssertionError(f"exit code {result.returncode}:\n{result.stdout}\n{result.stderr}")
    said = result.stderr.splitlines()
    first = next((i for i, line in enumerate(said) if line.startswith("error: ")), len(said))
    if (
        len(said) < first + 3
        or not said[first + 1].startswith("  where: ")
        or not said[first + 2].startswith("  fix:   ")
    ):
        raise AssertionError(result.stderr)
    what, where, fix = said[first : first + 3]
    return what.removeprefix("error: "), where.removeprefix("  where: "), fix.removeprefix("  fix:   ")
