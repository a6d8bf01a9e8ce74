"""The ranks of one node, started by scmf-train itself. In: a number of ranks. Out: their common exit code.

Under torchrun or Slurm the ranks exist already and this file is not used.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from random import SystemRandom
from types import FrameType

from scmf.core.errors import MachineError
from scmf.train.signals import REQUEUE
from scmf.train.watchdog import HUNG

PARENT = "SCMF_LAUNCHER_PID"
_GRACE_SECONDS = 30.0
_LAST_WORDS_SECONDS = 5.0
"""Time in which ranks may end by themselves, and say why, after one has failed."""
_WITH_ALL = (REQUEUE, HUNG)
"""Codes with which all ranks end by themselves: after a save that was asked for, or when none makes progress."""
PORTS = range(12_000, 32_000)
"""Where ranks meet: below the ports that the system hands to outgoing connections."""
_PR_SET_PDEATHSIG = 1


def under_launcher() -> bool:
    """Whether torchrun, Slurm or this file has started this process as a rank."""
    return "RANK" in os.environ or in_slurm_step()


def in_slurm_step() -> bool:
    """Whether this is one of several tasks of a Slurm step; a shell from `srun --pty` is a step of one."""
    return os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"


def run_ranks(ranks: int, arguments: Sequence[str]) -> int:
    """Start `scmf-train` once a rank, wait, and return the first exit code that is not 0.

    When a rank fails the others have a few seconds to end by themselves, and are killed then. SIGTERM and SIGUSR1
    go to all ranks, which save and end with the code of a requeue.

    Args:
        ranks: processes to start on this machine.
        arguments: of the command.
    """
    port = free_port()
    processes = [_start(rank, ranks, port, arguments) for rank in range(ranks)]

    def forward(number: int, frame: FrameType | None) -> None:
        """Pass a signal on to every rank."""
        del frame
        for process in processes:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, forward)
    return _wait(processes)


def die_with_launcher() -> None:
    """Have the kernel stop this rank when the process that started it is gone, even by kill -9.

    Otherwise ranks of a killed run would go on writing checkpoints beside the resumed one. Linux only.
    """
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # gone before the call
        sys.exit(1)


def _start(rank: int, ranks: int, port: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    cores = len(os.sched_getaffinity(0))
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        PARENT: str(os.getpid()),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    # One node: gloo need not ask which address the host's name has, which fails on many laptops.
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform.startswith("linux") else "lo0")
    return subprocess.Popen([sys.executable, "-P", "-m", "scmf.train.cli_train", *arguments], env=environment)


def free_port() -> int:
    """A port on which rank 0 can listen.

    Taken below the ports that the system hands to outgoing connections (from 32,768 on Linux, 49,152 elsewhere):
    one of those can be taken by anybody between this probe and the moment when rank 0 listens.
    """
    candidates = SystemRandom().sample(PORTS, 64)
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise MachineError(
        f"none of {len(candidates)} ports tried between {PORTS[0]:,} and {PORTS[-1]:,} is free",
        where="127.0.0.1",
        fix="end the programs that hold them (`ss -ltn` lists them), or start the ranks with torchrun",
    )


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all; stop the others when one fails."""
    try:
        while None in (codes := [process.poll() for process in processes]):
            failed = [code for code in codes if code]
            if failed:
                seconds = _GRACE_SECONDS if failed[0] in _WITH_ALL else _LAST_WORDS_SECONDS
                return _told(_let_end(processes, seconds), failed[0])
            time.sleep(0.05)
    except KeyboardInterrupt:
        _stop(processes)
        sys.stderr.write("stopped by Ctrl-C; --resume auto goes on from the last checkpoint\n")
        return 130
    return _told(codes, next((code for code in codes if code), 0))


def _let_end(processes: list[subprocess.Popen[bytes]], seconds: float) -> list[int | None]:
    """Wait for the ranks; those that a failed one has left in a collective do not come back, and are killed.

    Returns:
        Codes of the ranks that have ended by themselves.
    """
    deadline = time.monotonic() + seconds
    while None in (codes := [process.poll() for process in processes]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    return codes


def _told(codes: Sequence[int | None], first: int) -> int:
    """The exit code of the command: 128 + the signal that has ended a rank, which is told here; or the first code.

    Args:
        codes: of the ranks that have ended by themselves.
        first: code that was seen first; 0 where all ranks have done their work.
    """
    killed = next(((rank, -code) for rank, code in enumerate(codes) if code is not None and code < 0), None)
    if killed is None:
        return first
    rank, number = killed
    error = MachineError(
        f"rank {rank} was ended by {signal.Signals(number).name}",
        where=f"one of {len(codes)} ranks on this machine",
        fix="SIGKILL is often memory that ran out (`dmesg` tells): a smaller data.microbatch_tokens or fewer ranks; "
        "then --resume auto",
    )
    sys.stderr.write(f"error: {error}\n")
    return 128 + number


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    _let_end(processes, _GRACE_SECONDS)
