"""What a built model really takes, for tests of the formulas that plan it. Runs on any number of ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from scmf.core.batch import Microbatch
from scmf.model.pack import Pack
from scmf.train.config import MainConfig
from scmf.train.layout import lay_out
from scmf.train.plan.memory import Place
from scmf.train.world import join_world
from support.tiny import VOCABULARY, build_engine, drawn_step, tiny_config


def place_of(config: MainConfig, *, replicas: int) -> Place:
    """The formulas' view of a tiny run in fp32 on a CPU."""
    return Place(
        model=config.model,
        seq_length=VOCABULARY.seq_length,
        vocabulary_size=VOCABULARY.size,
        parallel=config.trainer.parallel,
        replicas=replicas,
        precision="fp32" if config.trainer.precision == "auto" else config.trainer.precision,
        optimizer=config.trainer.optimizer,
        ema=config.trainer.ema is not None,
        gpu=False,
    )


def bytes_held(changes: dict[str, Any]) -> tuple[int, int, int, int, int]:
    """Pipeline rank, numbers trained, and bytes of weights, gradients and optimizer after a step on this rank."""
    config = tiny_config(**changes)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        engine = build_engine(config, layout)
        engine.train_step(drawn_step(0, replica=layout.replica, replicas=layout.replicas), step=0)
        numbers = sum(p.numel() for stage in engine.stages for p in stage.parameters())
        weights = sum(_local(p).nbytes for stage in engine.stages for p in stage.parameters())
        return layout.groups.pp.rank(), numbers, weights, _gradients(engine), _optimizer(engine, weights)


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _gradients(engine: Any) -> int:
    if engine.settings.parallel.fsdp:
        return sum(_local(p.grad).nbytes for p in engine.stages[0].parameters())
    return sum(buffer.grad_data.nbytes for model in engine.passes.models for buffer in model.buffers)


def _optimizer(engine: Any, weights: int) -> int:
    """State that is not a weight: moments, averages, and fp32 originals where weights are in half precision."""
    from scmf.train.gradients import parts

    total = 0
    for part in parts(engine.optimizer):
        inner = part.optimizer
        for state in inner.state.values():
            total += sum(_local(v).nbytes for v in state.values() if torch.is_tensor(v) and v.numel() > 1)
        if engine.precision != "fp32":
            total += sum(_local(p).nbytes for group in inner.param_groups for p in group["params"])
    del weights
    return total


def bytes_kept(changes: dict[str, Any], microbatch: Microbatch) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, weights not counted."""
    config = tiny_config(**changes)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        engine = build_engine(config, layout)
        (model,) = engine.stages
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, int] = {}
        alive = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            alive.append(storage)  # so that no other tensor takes its address
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        model.train()
        pack = Pack.of(microbatch, world.device)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(pack)
        return sum(kept.values())


def flops_counted(changes: dict[str, Any], microbatch: Microbatch) -> tuple[int, int]:
    """FLOPs of the products of a forward pass, and of a forward and backward pass, as torch counts them."""
    config = tiny_config(**changes)
    with join_world() as world, lay_out(world, config.trainer.parallel) as layout:
        (model,) = build_engine(config, layout).stages
        model.train()
        pack = Pack.of(microbatch, world.device)
        with FlopCounterMode(display=False) as forward:
            losses = model(pack)
        with FlopCounterMode(display=False) as backward:
            losses.sum().backward()
        return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


def held_by_each(several: list[dict[str, Any]]) -> list[tuple[int, int, int, int, int]]:
    """`bytes_held` of several runs on one rank, in one process."""
    return [bytes_held(changes) for changes in several]


def kept_by_each(several: list[dict[str, Any]], microbatch: Microbatch) -> list[int]:
    """`bytes_kept` of several runs, in one process."""
    return [bytes_kept(changes, microbatch) for changes in several]


def counted_for_each(several: list[dict[str, Any]], microbatch: Microbatch) -> list[tuple[int, int]]:
    """`flops_counted` of several runs, in one process."""
    return [flops_counted(changes, microbatch) for changes in several]
