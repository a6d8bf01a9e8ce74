"""Jobs over several processes. In: jobs and a site. Out: their results, as they come.

Workers are forked from a server that has imported the code once, so that they share its memory. They are given
plans and give back facts; no cell passes between processes. Ctrl-C reaches the leader, which ends its workers.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

from scmf.core.config import Config
from scmf.core.errors import MachineError
from scmf.data.ingest.early import worker_context
from scmf.data.ingest.jobs import Advance, Job, Site

_MESSAGE_CELLS: Final = 4096
"""Cells between two messages about progress."""


@dataclass(frozen=True, slots=True)
class Done:
    """A job that has been done."""

    job: Job
    result: Config
    attempt: Path | None


def run_jobs(jobs: Sequence[Job], site: Site, *, workers: int, advance: Advance) -> Iterator[Done]:
    """Do the jobs, in this process where one worker is enough.

    Raises:
        MachineError: a worker was killed.
        ScmfError: what a job raised; the other workers are ended.
    """
    n = min(workers, len(jobs))
    if n > 1:
        yield from _run_in_processes(jobs, site, n, advance)
        return
    for job in jobs:
        yield Done(job, *job.run(site, advance))


def _run_in_processes(jobs: Sequence[Job], site: Site, n: int, advance: Advance) -> Iterator[Done]:
    context = worker_context()
    staff: dict[Connection, _Worker] = {}
    waiting = list(reversed(jobs))
    try:
        for _ in range(n):
            worker = _Worker(context, site)
            staff[worker.connection] = worker
            worker.give(waiting.pop())
        while any(worker.job for worker in staff.values()):
            for connection in wait([c for c, worker in staff.items() if worker.job]):
                done = staff[connection].take(advance)  # type: ignore[index]  # they are the keys
                if done is not None:
                    yield done
                    if waiting:
                        staff[connection].give(waiting.pop())  # type: ignore[index]
    finally:
        for worker in staff.values():
            worker.end()


class _Worker:
    """One process and what it is doing."""

    def __init__(self, context: Any, site: Site) -> None:
        self.connection, theirs = context.Pipe()
        self.job: Job | None = None
        self._process = context.Process(target=serve, args=(theirs, site), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        """Hand over the next job."""
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # a dead worker is met when its answer is awaited
            self.connection.send(job)

    def take(self, advance: Advance) -> Done | None:
        """Read one message; the job's result where it is that."""
        try:
            kind, content = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise MachineError(
                f"a worker was ended by {_how_it_ended(self._process.exitcode)}",
                where=f"worker process {self._process.pid}",
                fix="if memory ran out, ask for less with --memory or --workers; the same command goes on from there",
            ) from None
        if kind == "cells":
            advance(content)
            return None
        if kind == "error":
            raise content
        job, self.job = self.job, None
        if job is None:
            raise RuntimeError("a worker answered that had no job")
        return Done(job, *content)

    def end(self) -> None:
        """Stop the process, whatever it does."""
        self.connection.close()
        if self.job is not None:
            self._process.kill()
        self._process.join()


def serve(connection: Connection, site: Site) -> None:
    """Body of a worker: do jobs until the leader closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the leader, which ends its workers
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the leader is gone
        while True:
            job: Job = connection.recv()
            _do(job, connection, site)


def _do(job: Job, connection: Connection, site: Site) -> None:
    unsaid = 0

    def advance(cells: int) -> None:
        nonlocal unsaid
        unsaid += cells
        if unsaid >= _MESSAGE_CELLS:
            connection.send(("cells", unsaid))
            unsaid = 0

    try:
        result = job.run(site, advance)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        connection.send(("error", error))
        return
    connection.send(("cells", unsaid))
    connection.send(("done", result))


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
