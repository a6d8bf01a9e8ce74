"""This process among the others. In: the environment of torchrun or Slurm, or none. Out: joined ranks.

Nothing here knows the model; `scmf.train.layout` divides these ranks into process groups.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import (  # torch.distributed has them, but not in its typed names
    HashStore,
    PrefixStore,
    Store,
)
from torch.distributed.rendezvous import rendezvous

from scmf.core.errors import MachineError
from scmf.core.text import counted
from scmf.model.device import gpu_count, local_device, use_device
from scmf.train.launch import PORTS, in_slurm_step

TIMEOUT = timedelta(minutes=30)
MEETING = timedelta(minutes=10)
"""For all ranks to have come: what torchrun gives its agents. One that fails before it is there is not heard of."""
LONGEST = timedelta(days=8)
"""For collectives that may wait for ever; NCCL and gloo need a number."""
_GONE = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe"),  # its process has ended
    *("Connection timed out", "No route to host", "Network is unreachable"),  # its node, or the way there, is down
    *("NCCL Error 6", "remote process exited"),
)


@dataclass(frozen=True, slots=True)
class World:
    """Who this process is."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    """Ranks on this node."""
    device: torch.device
    timeout: timedelta = TIMEOUT
    """Of every collective, in whatever group."""

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and speaks to the user."""
        return self.rank == 0


def patience(hang_seconds: float | None) -> timedelta:
    """How long a collective waits: past the moment at which the watchdog has told where every rank stands.

    Args:
        hang_seconds: `trainer.faults.hang_seconds`.
    """
    return LONGEST if hang_seconds is None else min(LONGEST, timedelta(seconds=2 * hang_seconds) + TIMEOUT)


@contextmanager
def join_world(timeout: timedelta = TIMEOUT, *, tensor: int = 1) -> Iterator[World]:
    """Join the other ranks for the time of the block; alone where no launcher has set an environment.

    Args:
        timeout: of every collective.
        tensor: ranks that will share a layer.

    Raises:
        MachineError: the environment is incomplete, there is no GPU for this rank, or the other ranks cannot be
            reached.
    """
    world = replace(read_environment(), timeout=timeout)
    _refuse_without_gpu_of_its_own(world, gpus=gpu_count())
    if tensor > 1:
        # In one queue a layer's sum over ranks starts before the product that hides it; FSDP wants several. Read when
        # CUDA starts. Source: Megatron-LM, megatron/training/arguments.py.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    use_device(world.device)
    torch.set_num_threads(_threads(world))
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    try:
        if world.size == 1:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(
                backend, store=_meeting_place(timeout), rank=world.rank, world_size=world.size, timeout=timeout
            )
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"rank {world.rank} of {world.size} cannot reach the others: {str(error).splitlines()[0]}",
            where=f"MASTER_ADDR={os.environ.get('MASTER_ADDR')} MASTER_PORT={os.environ.get('MASTER_PORT')}",
            fix="see whether a rank has failed before; check that every node reaches that address and the port is free",
        ) from error
    try:
        yield world
    finally:
        dist.destroy_process_group()


def _refuse_without_gpu_of_its_own(world: World, *, gpus: int) -> None:
    """Two ranks on one GPU would fail in the first collective, in NCCL's words.

    Args:
        world: this rank.
        gpus: that it can see; Slurm may show each task its own alone.
    """
    if not gpus or world.local_rank < gpus or (gpus == 1 and in_slurm_step()):
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    raise MachineError(
        f"rank {world.rank} is number {world.local_rank}, from 0, of this node's {world.local_size}, and sees "
        f"{counted(gpus, 'GPU')}",
        where=f"LOCAL_RANK={world.local_rank}, CUDA_VISIBLE_DEVICES={visible}",
        fix=f"start at most {counted(gpus, 'rank')} a node (torchrun --nproc-per-node {gpus}), or set "
        "CUDA_VISIBLE_DEVICES= for ranks on cores",
    )


def _meeting_place(timeout: timedelta) -> Store:
    """The store at MASTER_ADDR and MASTER_PORT, where ranks leave each other their addresses.

    torchrun with a fixed address keeps its store when it starts the ranks again (seen with torch 2.13): addresses of
    ranks that are gone would be found there, so each start has names of its own.
    """
    store, _, _ = next(rendezvous("env://", timeout=min(timeout, MEETING)))
    store.set_timeout(timeout)
    return PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def lost_contact(error: RuntimeError) -> str | None:
    """The words of gloo, NCCL or the system, where a collective has failed because another rank is gone."""
    return next((words for words in _GONE if words in str(error)), None)


def _threads(world: World) -> int:
    """Threads of this rank's kernels: what the user says, or the cores shared by the ranks of the node."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else max(1, len(os.sched_getaffinity(0)) // world.local_size)


def read_environment() -> World:
    """Rank and size from torchrun's variables, else from a Slurm step's, else a world of one.

    Raises:
        MachineError: some of torchrun's variables are set and others missing, or not numbers.
    """
    if "RANK" not in os.environ and in_slurm_step():
        _take_slurm_step()
    if "RANK" not in os.environ:
        return World(rank=0, size=1, local_rank=0, local_size=1, device=local_device())
    rank, size, local_rank = (_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    local_size = _number("LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in os.environ else size
    return World(rank=rank, size=size, local_rank=local_rank, local_size=local_size, device=local_device())


def _number(name: str) -> int:
    value = os.environ.get(name)
    if value is None or not value.isdecimal():
        raise MachineError(
            f"{name} is {value!r}; RANK, WORLD_SIZE and LOCAL_RANK have to be set together, as numbers",
            where="the environment of this process",
            fix="start the ranks with torchrun or srun, or unset RANK to run one process",
        )
    return int(value)


def _take_slurm_step() -> None:
    """Translate a Slurm step's variables into torchrun's."""
    size = os.environ["SLURM_STEP_NUM_TASKS"]
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = size
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    # "4" or "4(x2),3": tasks a node, by node; the first entry holds for homogeneous jobs.
    os.environ["LOCAL_WORLD_SIZE"] = os.environ.get("SLURM_STEP_TASKS_PER_NODE", size).split("(")[0].split(",")[0]
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_slurm_node()
    os.environ.setdefault("MASTER_PORT", str(_port_of_step()))


def _port_of_step() -> int:
    """A port that other jobs and other steps of this job are unlikely to have, below those of outgoing connections."""
    job, step = (int(os.environ.get(f"SLURM_{of}_ID", "0")) for of in ("JOB", "STEP"))
    return PORTS[(job + 7919 * step) % len(PORTS)]


def _first_slurm_node() -> str:
    """The first name of Slurm's list: gpu003 of gpu[003-005,007],login1. Not asked of Slurm: containers lack it.

    Raises:
        MachineError: nothing knows the address of that name.
    """
    name = re.sub(r"\[(\d+)[^\]]*\]", r"\1", os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")).split(",")[0]
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        raise MachineError(
            f"the first node of this step is {name!r}, and nothing here knows its address: {error.strerror}",
            where="SLURM_STEP_NODELIST",
            fix=f"set MASTER_ADDR before srun, to what `scontrol show node {shlex.quote(name)}` has as NodeAddr",
        ) from error
    return name
