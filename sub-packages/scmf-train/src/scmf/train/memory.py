"""The largest microbatch that fits into memory. In: an engine and the `data` section. Out: the section, its
microbatch halved as often as needed; the global batch, and with it the result, stays the same.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist

from scmf.core.batch import CellTargets, Microbatch, StepBatch
from scmf.core.errors import MachineError
from scmf.data.config import DataConfig
from scmf.model.config import largest_divisor
from scmf.model.device import is_out_of_memory, release_memory
from scmf.train.engine import Engine


def fit_microbatch(data: DataConfig, engine: Engine, *, masked: float, align: int) -> DataConfig:
    """Try the largest microbatch on every rank, and halve it until it fits on all; collective.

    Args:
        data: the section as it was written.
        engine: built, its memory taken; nothing of it changes.
        masked: share of the tokens that is predicted: what the vocabulary head costs.
        align: positions of a microbatch are a multiple of this.

    Raises:
        MachineError: the smallest microbatch does not fit; or memory ran out where ranks share one copy of the
            model and cannot go on together after one has stopped in the middle of a pass.
    """
    while not _fits_everywhere(engine, _labelled(largest_microbatch(data, masked=masked, align=align), engine), data):
        data = halved(data, replicas=engine.layout.replicas)
    return data


def largest_microbatch(data: DataConfig, *, masked: float, align: int) -> Microbatch:
    """As many tokens as a microbatch of the section can have, in cells of full length.

    Args:
        data: the section.
        masked: share of the tokens that is predicted.
        align: positions are a multiple of this.
    """
    longest = data.tokenizer.seq_length
    asked = data.microbatch_tokens or (data.micro_batch_size or 1) * longest
    width = -(-asked // align) * align
    ends = np.minimum(np.arange(0, width + longest, longest), width).astype(np.int32)
    targets = np.linspace(0, width - 1, max(1, math.ceil(masked * width)) if masked else 0).astype(np.int32)
    return Microbatch(
        input_ids=np.ones(width, np.int32),
        positions=(np.arange(width) % longest).astype(np.int32),
        cu_seqlens=ends,
        target_positions=targets,
        targets=np.ones(len(targets), np.int32),
        cell_ids=np.zeros(len(ends) - 1, np.int64),
        tokens=width,
        longest=longest,
    )


def _labelled(microbatch: Microbatch, engine: Engine) -> Microbatch:
    """The microbatch with a label on every cell, for each objective about whole cells."""
    segments = np.arange(len(microbatch.cell_ids), dtype=np.int32)
    targets = {
        objective.name: CellTargets(segments, objective.zeros(len(segments)))
        for objective in engine.passes.objectives.each
        if objective.asks != "tokens"
    }
    return replace(microbatch, cell_targets=targets)


def halved(data: DataConfig, *, replicas: int) -> DataConfig:
    """The section with half the microbatch, and the same global batch.

    Raises:
        MachineError: it is as small as it can be.
    """
    longest, tokens, cells = data.tokenizer.seq_length, data.microbatch_tokens, data.micro_batch_size
    if tokens is not None and tokens > longest:
        return data.replace(microbatch_tokens=max(longest, tokens // 2))
    if cells is not None and cells > 1:
        return data.replace(micro_batch_size=largest_divisor(data.global_batch_size // replicas, cells // 2))
    raise MachineError(
        f"memory runs out even with one cell of {longest:,} tokens in a microbatch",
        where="data.tokenizer.seq_length",
        fix="use a shorter data.tokenizer.seq_length, a smaller model, trainer.parallel.recompute=full, or "
        "trainer.parallel.tensor over more ranks",
    )


def describe_microbatch(data: DataConfig) -> str:
    """The key and the value that limit a microbatch."""
    if data.microbatch_tokens is not None:
        return f"data.microbatch_tokens={data.microbatch_tokens}"
    return f"data.micro_batch_size={data.micro_batch_size}"


def _fits_everywhere(engine: Engine, microbatch: Microbatch, data: DataConfig) -> bool:
    fits = _fits(engine, microbatch)
    release_memory(engine.layout.world.device)
    parallel = engine.settings.parallel
    if not fits and (parallel.model_ranks > 1 or parallel.fsdp or parallel.shard_optimizer):
        smaller = describe_microbatch(halved(data, replicas=engine.layout.replicas))
        raise MachineError(
            f"memory ran out with {describe_microbatch(data)}",
            where="the largest microbatch, before the first step",
            fix=f"add {smaller}; ranks that share a model or its optimizer cannot try smaller ones by themselves",
        )
    everywhere: list[bool] = [fits] * dist.get_world_size()
    dist.all_gather_object(everywhere, fits)
    return all(everywhere)


def _fits(engine: Engine, microbatch: Microbatch) -> bool:
    """Forward and backward without a word to other replicas, beside the memory that the optimizer will take."""
    try:
        kept = _optimizer_state(engine)
        engine.passes.try_alone(StepBatch((microbatch,), cells=0, cell_ids=np.zeros(0, np.int64)))
        del kept
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _optimizer_state(engine: Engine) -> list[torch.Tensor]:
    """Tensors of the size of Adam's two moments, which are first there after the first step."""
    parallel = engine.settings.parallel
    share = engine.layout.replicas if parallel.shard_optimizer else 1
    numbers = sum(parameter.numel() for stage in engine.stages for parameter in stage.parameters())
    return [torch.zeros(-(-numbers // share), device=engine.layout.world.device) for _ in range(2)]
