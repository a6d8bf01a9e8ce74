"""What to do where a run does not fit. In: a plan. Out: the nearest layout or microbatch that fits, as words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from scmf.core.errors import ConfigError, MachineError
from scmf.core.text import counted
from scmf.model.config import largest_divisor
from scmf.train.config import MainConfig
from scmf.train.plan.estimate import Plan, most_tokens
from scmf.train.plan.target import Target
from scmf.train.rules import check_world

A_NODE = 8
"""Devices of a node in proposals of more devices: what most nodes of such GPUs have."""
MOST_DEVICES = 1024


@dataclass(frozen=True, slots=True)
class Change:
    """Keys to change, as overrides, and the devices that they are for."""

    devices: int
    parallel: tuple[tuple[str, str], ...]
    """Key of `trainer.parallel` and value."""
    tokens: int | None = None
    """Positions of a microbatch, where that has to be smaller."""

    replicas: int = 1

    def words(self, config: MainConfig) -> list[str]:
        """Overrides of a config."""
        words = [f"trainer.parallel.{key}={value}" for key, value in self.parallel]
        if self.tokens is None:
            return words
        return [*words, microbatch_word(config, self.tokens, replicas=self.replicas)]


def microbatch_word(config: MainConfig, tokens: int, *, replicas: int) -> str:
    """The override that makes a microbatch of at most so many positions.

    Args:
        config: packed, or padded: then it is cells that are counted, and they divide a replica's share of a step.
        tokens: positions.
        replicas: that share a step's cells.
    """
    if config.data.packing:
        return f"data.microbatch_tokens={tokens}"
    cells = max(1, tokens // config.data.tokenizer.seq_length)
    return f"data.micro_batch_size={largest_divisor(config.data.global_batch_size // replicas, cells)}"


def refuse_misfit(plan: Plan, command: Callable[[int, Sequence[str]], str]) -> None:
    """Nothing where the run's microbatch fits into a device's memory.

    Args:
        plan: of the run.
        command: the command for so many devices with so many more overrides, quoted.

    Raises:
        MachineError: it does not fit; with the command that plans what does.
    """
    if plan.fits:
        return
    memory, target = plan.memory, plan.target
    largest = sorted(memory.parts().items(), key=lambda part: -part[1])[:2]
    needs = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in largest)
    found = nearest_fit(plan)
    if found is None:
        fix = f"a smaller model, a shorter data.tokenizer.seq_length: no layout of {MOST_DEVICES:,} devices fits either"
    else:
        fix = command(found.devices, found.words(plan.config))
    raise MachineError(
        f"the run needs {memory.total / 1e9:.1f} GB a device ({needs}), and {target.title} has "
        f"{target.memory / 1e9:.1f} GB",
        where=f"{counted(target.devices, 'device')}, {_microbatch(plan.config)}, trainer.parallel",
        fix=fix,
    )


def _microbatch(config: MainConfig) -> str:
    if config.data.packing:
        return f"data.microbatch_tokens={config.data.microbatch_tokens}"
    return f"data.micro_batch_size={config.data.micro_batch_size}"


def nearest_fit(plan: Plan) -> Change | None:
    """The smallest change that fits: a smaller microbatch, then recomputation, sharding, splitting, more devices."""
    if plan.most_tokens is not None:
        return Change(plan.target.devices, (), plan.most_tokens, plan.target.replicas)
    return next(filter(None, (_fitted(plan, change) for change in _changes(plan))), None)


def _changes(plan: Plan) -> Iterator[Change]:
    """Layouts in the order of what they cost."""
    devices = plan.target.devices
    while devices <= MOST_DEVICES:
        tensors = [t for t in (1, 2, 4, 8) if t <= devices]
        sharding: tuple[tuple[tuple[str, str], ...], ...] = ((), (("shard_optimizer", "true"),), (("fsdp", "true"),))
        for tensor, shard, recompute in itertools.product(tensors, sharding, ("none", "selective", "full")):
            split = (("tensor", str(tensor)), ("sequence", "true")) if tensor > 1 else ()
            again = (("recompute", recompute),) if recompute != "none" else ()
            yield Change(devices, (*split, *shard, *again))
        devices *= 2


def _fitted(plan: Plan, change: Change) -> Change | None:
    """The change with the microbatch that fits; None where it fits nowhere, or is no valid run."""
    if not change.parallel and change.devices == plan.target.devices:
        return None
    try:
        config = _changed(plan.config, change)
        replicas = check_world(config, change.devices)
    except ConfigError:
        return None
    target: Target = replace(plan.target, devices=change.devices, replicas=replicas)
    tokens = most_tokens(config, target, plan.workload)
    if tokens is None:
        return None
    asked = config.data.microbatch_tokens or (config.data.micro_batch_size or 1) * config.data.tokenizer.seq_length
    return replace(change, replicas=replicas, tokens=tokens if tokens < asked else None)


def _changed(config: MainConfig, change: Change) -> MainConfig:
    values = {key: {"true": True}.get(v, int(v) if v.isdecimal() else v) for key, v in change.parallel}
    devices, nodes = spread(change.devices)
    parallel = config.trainer.parallel.replace(**values)
    return config.replace(trainer=config.trainer.replace(parallel=parallel, devices=devices, nodes=nodes))


def spread(devices: int) -> tuple[int, int]:
    """Devices a node, and nodes."""
    return (devices, 1) if devices <= A_NODE else (A_NODE, -(-devices // A_NODE))
