"""The folder that holds all of a run, sufficient on its own.

config.yaml   the configuration that ran, resolved
run.json      versions, machine, what every `auto` became, fingerprints
metrics.jsonl, cells.jsonl, saves.jsonl, log.txt, tensorboard/, wandb/, profile/, checkpoints/
rolled_back_1.metrics.jsonl, ...  what a rollback has undone
abandoned_1.metrics.jsonl, ...  what a resume from an older checkpoint, or without one, has undone
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from scmf.core.errors import ConfigError, TrainingError

PACKAGES = ("scmf-train", "torch", "megatron-core", "transformer-engine", "numpy", "zarr", "numba")
_VISIBLE_SECONDS = 20.0


class RunDirectory:
    """Paths of one run's folder.

    Args:
        path: `trainer.result_dir`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.record = path / "run.json"
        self.metrics = path / "metrics.jsonl"
        self.cells = path / "cells.jsonl"
        self.saves = path / "saves.jsonl"
        self.log = path / "log.txt"
        self.tensorboard = path / "tensorboard"
        self.profile = path / "profile"
        self.checkpoints = path / "checkpoints"
        self.lock = path / ".lock"

    def undone(self, rollback: int, name: str) -> Path:
        """File that holds what a rollback (from 1) has cut from a .jsonl file."""
        return self.path / f"rolled_back_{rollback}.{name}"

    def abandoned(self, records: Path) -> Path:
        """File, not there yet, for lines that a start from an older step, or from none, has cut from a .jsonl file."""
        numbered = (self.path / f"abandoned_{n}.{records.name}" for n in itertools.count(1))
        return next(path for path in numbered if not path.exists())

    def refuse_to_overwrite(self) -> None:
        """A run is never written over.

        Raises:
            ConfigError: the folder holds one.
        """
        if self.metrics.exists() or self.checkpoints.exists():
            raise ConfigError(
                "this folder already holds a run",
                where=str(self.path),
                fix="add --resume auto to go on with it, or name another folder: trainer.result_dir=results/NAME",
            )

    @contextmanager
    def locked(self) -> Iterator[str]:
        """Have the folder alone for the time of the block; a killed process gives it back.

        Yields:
            Who has it, as the folder says for all to see.

        Raises:
            ConfigError: another process trains in it.
            OSError: the folder cannot be made or written.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        owner = f"process {os.getpid()} on {platform.node()}"
        with self._lock() as file:
            try:
                with writing(self.path):
                    file.truncate(0)
                    file.write(f"{owner}\n")
                    file.flush()
                yield owner
            finally:
                # A start that was refused leaves nothing; a run leaves no lock file either.
                Path(file.name).unlink(missing_ok=True)
                _remove_empty(made)

    def _lock(self) -> TextIO:
        while True:
            file = self.lock.open("a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                owner = file.read().strip() or "a process"
                file.close()
                raise ConfigError(
                    f"another run is using this folder: {owner}",
                    where=str(self.path),
                    fix="wait until it ends, stop it, or name another folder: trainer.result_dir=results/NAME",
                ) from error
            except OSError:
                # Some network file systems have no locks. Two runs in one folder are then the user's to avoid.
                return file
            if _still_named(file):
                return file
            file.close()  # the run before removed it between our opening and our locking it

    def refuse_another(self, owner: str) -> None:
        """Ranks on other nodes have to see the folder that the first rank has locked: they write checkpoints there.

        Args:
            owner: what the first rank has written into the lock.

        Raises:
            ConfigError: this rank sees another folder under the same path, or none.
        """
        if not _comes_true(lambda: self.lock.is_file() and self.lock.read_text().strip() == owner):
            raise ConfigError(
                f"this rank, on {platform.node()}, does not see the folder that the first rank has ({owner})",
                where=str(self.path.absolute()),
                fix="put trainer.result_dir on a file system that all nodes share",
            )

    def begin(self, config_yaml: str, record: dict[str, Any]) -> None:
        """Write config.yaml and run.json into the locked folder.

        A resumed run keeps the records of its earlier starts: run.json lists them all.

        Raises:
            OSError: the folder cannot be written.
        """
        _replace(self.config, config_yaml)
        starts = json.loads(self.record.read_text())["starts"] if self.record.exists() else []
        _replace(self.record, json.dumps({"starts": [*starts, record]}, indent=1) + "\n")

    def newest_note(self, key: str) -> Any:
        """What the last start that noted a key has noted in run.json; None where none has."""
        starts = json.loads(self.record.read_text())["starts"] if self.record.exists() else []
        return next((start[key] for start in reversed(starts) if start.get(key) is not None), None)

    def note_end(self, end: dict[str, Any]) -> None:
        """Write why a run has ended beside its last start in run.json.

        Args:
            end: plain values.

        Raises:
            TrainingError: the folder cannot be written.
        """
        starts = json.loads(self.record.read_text())["starts"]
        starts[-1]["ended"] = end
        _replace(self.record, json.dumps({"starts": starts}, indent=1) + "\n")


def _comes_true(holds: Callable[[], bool]) -> bool:
    """Whether something is so; network file systems show a new file some seconds late."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _still_named(file: TextIO) -> bool:
    """Whether the open file is the one that has its name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat())
    except FileNotFoundError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to the first that holds something."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a write inside the block into an error that names the file and the way on.

    Raises:
        TrainingError: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{error.strerror or error} while writing", where=str(path), fix="make room, then go on with --resume auto"
        ) from error


def _replace(path: Path, text: str) -> None:
    """Write a file aside and rename it: whoever reads it sees the old one or the new one."""
    aside = path.with_name(f".{path.name}")
    with writing(path):
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers; absent packages are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe_machine() -> dict[str, Any]:
    """Host, system, cores and memory of this machine."""
    import psutil

    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
    }


def start_record(**facts: Any) -> dict[str, Any]:
    """One start of a run, for run.json: time, command, versions, machine, git revision and `facts`."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "versions": versions(),
        "machine": describe_machine(),
        "git": _git_revision(),
        **facts,
    }


def _git_revision() -> str | None:
    """Revision of the code that runs, with a plus sign where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "-s", "-uno"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision.stdout.strip() + ("+" if changes.stdout.strip() else "")
