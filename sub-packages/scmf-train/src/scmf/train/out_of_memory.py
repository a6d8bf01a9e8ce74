"""Memory that runs out in a run. In: the allocator's error. Out: a sentence with the way on, and, where that was asked
for, what the memory was taken for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from scmf.core.errors import MachineError
from scmf.data.config import DataConfig
from scmf.model.device import is_out_of_memory, remember_allocations, write_allocations


def refuse_memory_history(wanted: bool, device: torch.device) -> None:
    """The history is the GPU allocator's own.

    Raises:
        MachineError: it is asked for on a CPU.
    """
    if wanted and device.type != "cuda":
        raise MachineError(
            "trainer.log.memory_history=true keeps the history of a GPU's memory, and this run computes on a CPU",
            where="trainer.log.memory_history",
            fix="add trainer.log.memory_history=false; memory/peak_bytes in metrics.jsonl is the host's memory",
        )


@contextmanager
def told_when_memory_runs_out(folder: Path, *, history: bool, rank: int, data: DataConfig) -> Iterator[None]:
    """Turn an allocation that fails inside the block into an error that says what to change.

    Args:
        folder: run directory.
        history: keep what memory is taken for, and write it there.
        rank: this one.
        data: the section, whose microbatch is what to make smaller.

    Raises:
        MachineError: memory has run out.
    """
    if history:
        remember_allocations()
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        where = _written(folder / f"memory_rank_{rank}.pickle") if history else str(folder)
        raise MachineError(
            f"memory ran out: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}",
            where=where,
            fix=f"add {_smaller(data)} and --resume auto; or trainer.parallel.recompute=full",
        ) from error


def _written(path: Path) -> str:
    """Write the history; where it is, and what shows it."""
    write_allocations(path)
    return f"{path}, which https://pytorch.org/memory_viz shows"


def _smaller(data: DataConfig) -> str:
    """Half the microbatch, as an override."""
    if data.microbatch_tokens is not None:
        return f"data.microbatch_tokens={max(data.tokenizer.seq_length, data.microbatch_tokens // 2)}"
    return f"data.micro_batch_size={max(1, (data.micro_batch_size or 1) // 2)}"
