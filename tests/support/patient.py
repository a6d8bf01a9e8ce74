"""How long the groups of a run wait, for tests."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from scmf.train.agreement import Council
from scmf.train.checkpoint import CheckpointFolder
from scmf.train.config import CheckpointConfig, ParallelConfig
from scmf.train.layout import lay_out
from scmf.train.saver import Saver
from scmf.train.world import join_world


def patience_of_groups(timeout: timedelta) -> dict[str, timedelta]:
    """The time-out of every group in which a run's ranks wait for each other."""
    with join_world(timeout) as world, lay_out(world, ParallelConfig(tensor=2)) as layout:
        saver = Saver(CheckpointFolder(Path(), CheckpointConfig()), background=True, timeout=world.timeout)
        groups = {
            "all": dist.group.WORLD,
            "tensor": layout.groups.tp,
            "pipeline": layout.groups.pp,
            "data": layout.groups.dp,
            "before steps": Council(world.timeout)._group,
            "saves": saver._group,
        }
        return {name: _patience(group) for name, group in groups.items()}


def _patience(group: Any) -> timedelta:
    patience: timedelta = group._get_backend(torch.device("cpu")).options._timeout
    return patience
