"""Run a function on several ranks in seconds: a fork server imports Megatron once, every rank is forked from it."""

from __future__ import annotations

import functools
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

from scmf.train.launch import free_port

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["support.imported"])
TIMEOUT_SECONDS = 240


class RankFailedError(RuntimeError):
    """A rank raised or died; the message holds its traceback."""


def run_ranks(function: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """Call `function(*args)` in `ranks` processes with torchrun's environment.

    Args:
        function: importable by name (lives in tests/support).
        ranks: number of processes.
        args: picklable arguments, the same for every rank.

    Returns:
        The results in rank order.
    """
    _start_server()
    port = free_port()
    pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(ranks)]
    processes = [
        _CONTEXT.Process(target=_rank, args=(pipe[1], rank, ranks, port, function, args), daemon=True)
        for rank, pipe in enumerate(pipes)
    ]
    for process, pipe in zip(processes, pipes, strict=True):
        process.start()
        pipe[1].close()  # so that a rank that dies without a word is noticed at once
    try:
        return [_receive(pipe[0], rank) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()


@functools.cache
def _start_server() -> None:
    """Start the server; it imports before it knows this process's sys.path, so tests/ is named to it."""
    folders = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(folders)):
        forkserver.ensure_running()


def _receive(pipe: Any, rank: int) -> Any:
    if not pipe.poll(TIMEOUT_SECONDS):
        raise RankFailedError(f"rank {rank} did not answer in {TIMEOUT_SECONDS} s")
    try:
        ok, value = pipe.recv()
    except EOFError:
        raise RankFailedError(f"rank {rank} died") from None
    if not ok:
        raise RankFailedError(f"rank {rank}:\n{value}")
    return value


def _rank(pipe: Any, rank: int, ranks: int, port: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",  # the ranks of a test share two cores
    }
    try:
        pipe.send((True, function(*args)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
