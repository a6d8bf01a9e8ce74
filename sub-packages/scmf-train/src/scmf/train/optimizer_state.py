"""Optimizer state as parts of whole tensors. In: an optimizer in any layout. Out: checkpoint entries with the same
names and shapes in every layout, and the way back.

A data-parallel rank of a distributed optimizer holds, of a matrix, a run of its values in row order: up to three
rectangles, which is how a checkpoint names parts. So nothing is gathered, and a run goes on with the optimizer
sharded or not, over more ranks or fewer. (Megatron's own formats of 0.16.1 gather everything on one rank, and on
machines without Transformer Engine give all parameters one step counter, which then counts every parameter's step.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from scmf.model.megatron import MegatronOptimizer
from scmf.train.gradients import parts
from scmf.train.tensors import local

Shape = tuple[int, ...]
AVERAGE = "ema"
"""Name of the weights' running average among the states of an optimizer."""


@dataclass(frozen=True, slots=True)
class Share:
    """What this rank updates of one parameter."""

    parameter: Tensor
    """The model's own."""
    main: Tensor
    """What the optimizer updates: the parameter, an fp32 copy of it, or a run of its values."""
    first: int | None
    """Place of the run's first value in the flat parameter; None where every replica updates the whole of it."""
    inner: torch.optim.Optimizer
    is_copy: bool
    """Checkpoints keep the weight in a lower precision beside it."""

    def tensors(self) -> dict[str, Tensor]:
        """State with a number for every value that is updated, by the names of the inner optimizer."""
        state = self.inner.state[self.main]
        found = {k: local(v) for k, v in state.items() if isinstance(v, Tensor) and v.shape == self.main.shape}
        return {**found, "fp32_param": local(self.main)} if self.is_copy else found


def shares(optimizer: MegatronOptimizer) -> Iterator[Share]:
    """Everything that this rank updates."""
    for part in parts(optimizer):
        if hasattr(part, "gbuf_ranges"):
            yield from _scattered(part)
        else:
            low = getattr(part, "weight_dtype", torch.float32) != torch.float32
            yield from (Share(p, m, None, part.optimizer, low or m.dtype != p.dtype) for p, m in _whole(part))


def _whole(part: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters that a plain optimizer of Megatron's updates, each with its fp32 copy or itself."""
    if not hasattr(part, "float16_groups"):
        yield from ((local(p), p) for p in part.get_parameters())
        return
    copies = zip(
        chain.from_iterable(part.float16_groups), chain.from_iterable(part.fp32_from_float16_groups), strict=True
    )
    yield from copies
    yield from ((p, p) for p in chain.from_iterable(part.fp32_from_fp32_groups))


def _scattered(part: Any) -> Iterator[Share]:
    """Runs of values that a distributed optimizer of Megatron's keeps on this rank."""
    buckets = (bucket for ranges in part.gbuf_ranges for all_of_dtype in ranges.values() for bucket in all_of_dtype)
    for bucket in buckets:
        for parameter, ranges in bucket["param_map"].items():
            group, order = part.model_param_group_index_map[parameter]
            main = part.optimizer.param_groups[group]["params"][order]
            yield Share(parameter, main, ranges["param"].start, part.optimizer, main.dtype != parameter.dtype)


def optimizer_entries(optimizer: MegatronOptimizer, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Checkpoint entries of the optimizer's state; the state is made where there is none yet.

    Args:
        optimizer: over the parameters that `weights` describes.
        weights: Megatron's ShardedTensors of the model, each with the model's own parameter as its data.

    Returns:
        `tensors`: by this rank's numbering, entries of which the data are views of the state; `step`: updates done;
        `scaler`: the loss scale of fp16, where there is one.
    """
    initialise(optimizer)
    of_parameter = {id(entry.data): entry for entry in weights.values()}
    tensors = {
        f"{number}.{name}.{i}": entry
        for number, share in enumerate(shares(optimizer))
        for name, tensor in share.tensors().items()
        for i, entry in enumerate(_entries(of_parameter[id(share.parameter)], name, tensor.detach(), share))
    }
    return {"tensors": tensors, "step": _step(optimizer), "scaler": [s.state_dict() for s in _scalers(optimizer)]}


def take_optimizer(optimizer: MegatronOptimizer, state: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Put a state that was read into the optimizer.

    Args:
        optimizer: that `wanted` was made of.
        state: what was read for `wanted["tensors"]`, with `step` and `scaler`.
        wanted: of `optimizer_entries`; its data are views of the optimizer's state.
    """
    for key, place in wanted.items():
        place.copy_(state["tensors"][key].view(place.shape))
    for share in shares(optimizer):
        held = share.inner.state[share.main]
        if isinstance(held.get("step"), Tensor):
            # A counter of its own: the fused kernels add to each parameter's.
            held["step"] = torch.full_like(held["step"], state["step"])
    for part in parts(optimizer):
        for group in part.param_groups:
            if "step" in group:  # Transformer Engine's
                group["step"] = int(state["step"])
    for scaler, saved in zip(_scalers(optimizer), state["scaler"], strict=True):
        scaler.load_state_dict(saved)


def _entries(weight: Any, name: str, tensor: Tensor, share: Share) -> Iterator[Any]:
    """Megatron's ShardedTensors of one state of one parameter."""
    key = state_key(name, weight.key)
    if share.first is None:
        yield replace(weight, key=key, data=tensor, dtype=tensor.dtype)
        return
    for offset, size, at in rectangles(share.first, share.first + share.main.numel(), tuple(share.parameter.shape)):
        run = tensor.view(-1)[at - share.first : at - share.first + math.prod(size)]
        yield part_entry(weight, key=key, data=run.view(size), offset=offset)


def state_key(name: str, weight: str) -> str:
    """Name in a checkpoint of one state of one parameter."""
    return f"optimizer.state.{name}.{weight}"


def part_entry(weight: Any, *, key: str, data: Tensor, offset: Shape) -> Any:
    """The entry of a rectangle of a weight.

    Args:
        weight: entry of what this tensor rank holds of the parameter.
        key: name in the checkpoint.
        data: the rectangle, as many axes as the parameter.
        offset: its place in the parameter.
    """
    ahead = weight.prepend_axis_num
    offsets = (0,) * ahead + offset
    return replace(
        weight,
        key=key,
        # An axis of the layers stands before: torch's readers want it in parts that lie in no regular grid.
        data=data.view((1,) * ahead + tuple(data.shape)),
        dtype=data.dtype,
        local_shape=(1,) * ahead + tuple(data.shape),
        global_offset=tuple(a + b for a, b in zip(weight.global_offset, offsets, strict=True)),
        axis_fragmentations=None,
        prepend_axis_num=0,
        # One data-parallel rank has it. The others of the tensor and pipeline ranks keep their numbers.
        replica_id=(*weight.replica_id[:2], 0),
    )


def rectangles(start: int, stop: int, shape: Shape) -> Iterator[tuple[Shape, Shape, int]]:
    """A run of values of an array in row order, as rectangles.

    Args:
        start: first value.
        stop: after the last; may equal `start`.
        shape: of the array.

    Yields:
        offset and size along every axis, and the place of the first value in the flat array.
    """
    if len(shape) <= 1:
        if stop > start:
            yield (start,) * len(shape), (stop - start,) * len(shape), start
        return
    width = math.prod(shape[1:])
    while start < stop:
        row, inside = divmod(start, width)
        rows = (stop - start) // width if inside == 0 else 0
        if rows:
            yield (row, *(0 for _ in shape[1:])), (rows, *shape[1:]), start
            start += rows * width
            continue
        end = min(stop, (row + 1) * width)
        for offset, size, at in rectangles(inside, inside + end - start, shape[1:]):
            yield (row, *offset), (1, *size), at + row * width
        start = end


@torch.no_grad()
def initialise(optimizer: MegatronOptimizer) -> None:
    """Make the state of an optimizer that has not stepped: a step with zero gradients at rate zero changes nothing."""
    for part in parts(optimizer):
        inner = part.optimizer
        if inner is None or inner.state or not any(group["params"] for group in inner.param_groups):
            continue
        settings = [(group["lr"], group["weight_decay"]) for group in inner.param_groups]
        mains = [main for group in inner.param_groups for main in group["params"]]
        gradients = [main.grad for main in mains]
        for group in inner.param_groups:
            # Classic L2 decay is a gradient too.
            group["lr"], group["weight_decay"] = 0.0, 0.0
        for main in mains:
            main.grad = torch.zeros_like(main)
        inner.step()
        for main, gradient in zip(mains, gradients, strict=True):
            main.grad = gradient
        for group, (rate, decay) in zip(inner.param_groups, settings, strict=True):
            group["lr"], group["weight_decay"] = rate, decay
        _count_from(inner, 0)


def _count_from(inner: torch.optim.Optimizer, step: int) -> None:
    for held in inner.state.values():
        if isinstance(held.get("step"), Tensor):
            held["step"].fill_(step)
    for group in inner.param_groups:
        if "step" in group:
            group["step"] = step


def _step(optimizer: MegatronOptimizer) -> int:
    """Updates done; the same for every parameter."""
    counts = {int(held["step"]) for share in shares(optimizer) if "step" in (held := share.inner.state[share.main])} | {
        int(group["step"]) for part in parts(optimizer) for group in part.param_groups if "step" in group
    }
    if len(counts) > 1:
        raise RuntimeError(f"parameters have been updated different numbers of times: {sorted(counts)}")
    return counts.pop() if counts else 0


def _scalers(optimizer: MegatronOptimizer) -> list[Any]:
    return [part.grad_scaler for part in parts(optimizer) if getattr(part, "grad_scaler", None) is not None]
