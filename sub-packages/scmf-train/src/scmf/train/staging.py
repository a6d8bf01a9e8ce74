"""A rank's state on its way to disk. In: sharded tensors in use. Out: copies on the host, and what writes them.

The copies are taken while the run waits; they are written while it goes on. Megatron's own asynchronous save starts
a process that imports the main program again; torch's writer in a thread needs none.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from scmf.core.errors import CheckpointError
from scmf.model.megatron import dist_checkpointing
from scmf.train.agreement import attempt, first_fault
from scmf.train.world import lost_contact

WriteShards = Callable[[Path, Any], None]
"""Writes into the folder, agreeing over the process group; raises the same CheckpointError on every rank."""

_COMMON = "common.pt"


class Staging:
    """Host copies of one rank's tensors. The memory is kept from save to save: fresh pages cost more than the copy."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, int], torch.Tensor] = {}

    @property
    def bytes(self) -> int:
        """Memory that the copies take on this rank."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def take(self, sharded_state: dict[str, Any]) -> WriteShards:
        """Copy a state; collective over all ranks, which compare who holds which part.

        Args:
            sharded_state: Megatron's description of this rank's state; changed.

        Returns:
            What writes the copies. The next `take` overwrites them, so it has to have ended.
        """
        from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
        from megatron.core.dist_checkpointing.strategies import torch as mcore

        sharded, common = save_preprocess(sharded_state)
        named, _, _ = mcore._replace_state_dict_keys_with_sharded_keys(sharded, keep_only_main_replica=True)  # noqa: SLF001
        for key, parts in named.items():
            for i, part in enumerate(parts):
                if isinstance(part, dist_checkpointing.ShardedTensor):
                    part.data = self._copied((key, i), part.data)
        tensors = mcore.mcore_to_pyt_state_dict(named, is_loading=False)
        kept = copy.deepcopy(common)  # learning rate and step counters move on while this is written

        def write(folder: Path, group: Any) -> None:
            """Write the copies into a folder."""
            with torch.no_grad():
                _write(folder, tensors, kept, group)

        return write

    def _copied(self, key: tuple[str, int], tensor: torch.Tensor) -> torch.Tensor:
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
            self._buffers[key] = buffer
        return buffer.copy_(tensor.detach())


def _write(folder: Path, tensors: dict[str, Any], common: dict[str, Any], group: Any) -> None:
    """Everything of a checkpoint that Megatron and torch read; collective.

    Raises:
        CheckpointError: some rank could not write; the same on every rank.
    """
    _, fault = attempt(lambda: _write_common(folder, common) if dist.get_rank() == 0 else None)
    found = first_fault(fault, group)
    if found is None:
        _, fault = attempt(lambda: _write_tensors(folder, tensors, group))
        found = first_fault(fault, group)
    if found is not None:
        raise found.error


def _write_common(folder: Path, common: dict[str, Any]) -> None:
    from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config

    try:
        torch.save(common, folder / _COMMON)
        save_config(CheckpointingConfig("torch_dist", 1), str(folder))
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        raise _not_written(folder) from error


def _write_tensors(folder: Path, tensors: dict[str, Any], group: Any) -> None:
    from megatron.core.dist_checkpointing.strategies import torch as mcore

    try:
        index = save(
            tensors,
            storage_writer=FileSystemWriter(str(folder)),
            planner=mcore.MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
            process_group=group,
        )
    except (OSError, RuntimeError, CheckpointException) as error:
        if isinstance(error, RuntimeError) and lost_contact(error):
            raise
        # torch's writers hide what the system said behind errors of their own.
        raise _not_written(folder) from error
    if dist.get_rank() == 0:
        _refuse_absent(folder, sorted({part.relative_path for part in index.storage_data.values()}))


def _refuse_absent(folder: Path, names: list[str]) -> None:
    """A node that has lost the shared folder writes without an error, but elsewhere.

    Raises:
        CheckpointError: a file that some rank has written is not in the first rank's folder.
    """
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{len(absent)} of {len(names)} shards are not in the first rank's folder, among them {absent[0]}",
            where=str(folder),
            fix="have trainer.result_dir on a file system that all nodes share; then go on with --resume auto",
        )


def _not_written(folder: Path) -> CheckpointError:
    free = shutil.disk_usage(folder.parent).free
    return CheckpointError(
        f"the checkpoint could not be written; the disk has {free / 1e6:,.0f} MB free",
        where=str(folder),
        fix="make room (or lift ulimit -f), then go on with --resume auto; earlier checkpoints are whole",
    )
