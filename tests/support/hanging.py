"""Ranks that hang, for tests of the watchdog; each writes its stderr to a file of its own."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import torch.distributed as dist

from scmf.train.watchdog import Watchdog
from scmf.train.world import join_world


def hang(folder: Path, seconds: float) -> None:
    """Rank 1 waits for nothing; the others wait for rank 1."""
    with join_world() as world:
        stderr = os.open(folder / f"rank{world.rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(stderr, 2)
        with Watchdog(seconds, rank=world.rank, size=world.size) as watchdog:
            watchdog.beat("step 7")
            wait_for_nothing() if world.rank == 1 else dist.barrier()


def wait_for_nothing() -> None:
    """The function that has to be on the stack."""
    threading.Event().wait()
