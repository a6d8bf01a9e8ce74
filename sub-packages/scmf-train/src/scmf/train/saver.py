"""Checkpoints of a run, written beside the training. In: a state at a step. Out: a folder, and a report of it.

The run waits while its state is copied; a thread writes the copy, checks it into the folder and tells how it went.
One save is under way at most. Every rank has the same sequence of saves, waits and reports.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from scmf.core.errors import CheckpointError, ScmfError
from scmf.train.agreement import RankFault, attempt, first_fault
from scmf.train.checkpoint import CheckpointFolder, Progress
from scmf.train.staging import WriteShards


@dataclass(frozen=True, slots=True)
class SaveReport:
    """One save that has ended, well or not."""

    step: int
    path: Path
    seconds: float
    """From its begin to its end."""
    stall: float
    """Seconds of them in which the run waited."""
    bytes: int
    """Of all files together; 0 on ranks other than the first."""
    fault: RankFault | None
    """Why there is no checkpoint; the same on every rank."""

    def __str__(self) -> str:
        if self.fault is not None:
            return f"no checkpoint at step {self.step:,}: {self.fault.error.what}"
        rate = self.bytes / max(self.seconds, 1e-9)
        return (
            f"saved {self.path.name}: {self.bytes / 1e6:,.1f} MB in {self.seconds:.2f} s ({rate / 1e6:,.0f} MB/s), "
            f"the run waited {self.stall:.2f} s"
        )

    def numbers(self) -> dict[str, Any]:
        """One line of saves.jsonl."""
        error = None if self.fault is None else self.fault.error.what
        return {
            "step": self.step,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 4),
            "stall_seconds": round(self.stall, 4),
            "bytes_per_s": round(self.bytes / max(self.seconds, 1e-9)),
            "error": error,
        }


class Saver:
    """Writes the checkpoints of one run; made and used by all ranks together.

    Args:
        folder: of the run's checkpoints.
        background: write in a thread; else `save` returns when everything is on disk.
        timeout: how long a rank waits for the others, which may have more to write.
    """

    def __init__(self, folder: CheckpointFolder, *, background: bool, timeout: timedelta) -> None:
        self._folder = folder
        self._background = background
        # Its collectives run beside those of the training, so they have a group of their own.
        self._group = dist.new_group(backend="gloo", timeout=timeout) if dist.get_world_size() > 1 else None
        self._thread: threading.Thread | None = None
        self._report: SaveReport | None = None
        self._crash: BaseException | None = None
        self.saved_step: int | None = None
        """Step of the last save that ended well."""
        self.fault: RankFault | None = None
        """Why the last save that has ended failed; None where it did not. The same on every rank."""
        self._failed_in_a_row = 0

    def save(self, progress: Progress, *, stage: Callable[[], WriteShards], files: dict[str, bytes]) -> None:
        """Begin a save; collective. The save before has to have been waited for.

        Args:
            progress: goes into the record.
            stage: copies this rank's state and returns what writes the copy.
            files: small files to put beside the shards; of the first rank.

        Raises:
            RuntimeError: one is under way.
        """
        if self._thread is not None:
            raise RuntimeError("a save is under way: wait() first")
        begun = time.perf_counter()
        write = stage()
        staged = time.perf_counter()
        self._thread = threading.Thread(
            target=self._run, args=(progress, write, files, begun, staged), name="scmf-save", daemon=True
        )
        self._thread.start()
        if not self._background:
            self._thread.join()

    def finished(self) -> SaveReport | None:
        """The report of a save that has ended since the last call; does not wait. Ranks may differ in when."""
        return self.wait() if self._thread is not None and not self._thread.is_alive() else None

    def wait(self) -> SaveReport | None:
        """Wait for the save under way, if there is one, and return its report."""
        if self._thread is None:
            return None
        self._thread.join()
        self._thread = None
        if self._crash is not None:
            raise self._crash
        report, self._report = self._report, None
        if report is not None:
            self._remember(report)
        return report

    def _remember(self, report: SaveReport) -> None:
        self.fault = report.fault
        self._failed_in_a_row = 0 if report.fault is None else self._failed_in_a_row + 1
        if report.fault is None:
            self.saved_step = report.step

    def failed_often(self, times: int) -> CheckpointError | None:
        """The fault of the last save as the reason to stop a run; None where fewer in a row have failed.

        Args:
            times: saves in a row that may not all fail, >= 1.
        """
        if self.fault is None or self._failed_in_a_row < times:
            return None
        error = self.fault.error
        what = f"{error.what} ({self._failed_in_a_row} saves in a row have failed)"
        return CheckpointError(what, where=error.where, fix=error.fix)

    def _run(
        self, progress: Progress, write: WriteShards, files: dict[str, bytes], begun: float, staged: float
    ) -> None:
        try:
            path, size, fault = self._write(progress, write, files)
        except BaseException as error:  # raised in the run's own thread, by wait()
            self._crash = error
            return
        ended = time.perf_counter()
        stall = (staged if self._background else ended) - begun
        self._report = SaveReport(progress.step, path, ended - begun, stall, size, fault)

    def _write(
        self, progress: Progress, write: WriteShards, files: dict[str, bytes]
    ) -> tuple[Path, int, RankFault | None]:
        first, aside, size = dist.get_rank() == 0, self._folder.aside(progress.step), 0
        _, error = attempt(lambda: self._folder.open_aside(aside) if first else None)
        fault = first_fault(error, self._group)
        if fault is None:
            # Every rank has the same error here, because the writers have compared theirs.
            _, error = attempt(lambda: write(aside, self._group))
            fault = None if error is None else RankFault(0, error)
        if fault is None:
            done, error = attempt(lambda: self._folder.close_aside(aside, progress, files) if first else 0)
            size, fault = done or 0, first_fault(_as_save(error), self._group)
        if fault is not None and first:
            with contextlib.suppress(OSError):
                self._folder.discard(aside)
        return self._folder.named(progress.step), size, fault


def _as_save(error: ScmfError | None) -> ScmfError | None:
    """A system's error in the words of a save."""
    if error is None or isinstance(error, CheckpointError):
        return error
    return CheckpointError(
        f"the checkpoint could not be written: {error.what}",
        where=error.where,
        fix="make room (or lift ulimit -f), then go on with --resume auto; earlier checkpoints are whole",
    )
