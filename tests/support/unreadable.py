"""A training step whose tensors have no values: what reads one fails, or is counted. As on a GPU, where it would wait.

Tensors are on torch's meta device, groups are torch's fake ones, so that one process is a rank of any layout; the seam
names that device to Megatron where it names the CPU otherwise. Attention reads no lengths, as Transformer Engine's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from scmf.model import seam, transformer
from scmf.model.megatron import MegatronModule
from scmf.model.spec import te_parts_of
from scmf.train import engine, memory
from scmf.train.layout import lay_out
from scmf.train.world import World
from support import fake_te
from support.tiny import build_engine, drawn_step, tiny_config

META = torch.device("meta")
NAMES = {torch.float32: "Float", torch.bfloat16: "BFloat16", torch.float16: "Half"}
READING: dict[str, Callable[[Tensor], Any]] = {
    "tolist": lambda tensor: [1.0] * tensor.numel(),
    "item": lambda _: 0.0,
    "__bool__": lambda _: False,
    "__int__": lambda _: 0,
    "__float__": lambda _: 0.0,
}
"""What reads a tensor, and what it is told here."""


class Unreading(MegatronModule):
    """Stands for attention: takes queries, keys and values of a pack, and looks at no number of it."""

    def __init__(self, config: Any, *_: Any, **__: Any) -> None:
        super().__init__(config)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        """(T, A * E) of three times (T, A, E)."""
        return (query + key + value).flatten(1)


def reads_of_a_step(changes: dict[str, Any], rank: int, size: int) -> list[str]:
    """How the second step of one rank of a layout reads the device. Changes the process it runs in for good."""
    _name_the_meta_device()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    world = World(rank=rank, size=size, local_rank=rank, local_size=size, device=META)
    config = tiny_config(**changes)
    with lay_out(world, config.trainer.parallel) as layout:
        own = build_engine(config, layout)
        reads = _count_reads()
        for step in range(2):
            reads.clear()
            batch = drawn_step(step, replica=layout.replica, replicas=layout.replicas)
            labelled = tuple(memory._labelled(microbatch, own) for microbatch in batch.microbatches)
            own.train_step(replace(batch, microbatches=labelled), step=step)
        return reads


def _name_the_meta_device() -> None:
    """Let everything that would be on a GPU be on the meta device, with the kernels' stand-ins."""
    from megatron.core.distributed import param_and_grad_buffer  # late: scmf.model.megatron silences its warnings

    seam.open_seam()
    seam._CPU = META
    seam._cuda_named_type = _named_type
    transformer.choose_kernels = lambda _: "te"
    transformer.transformer_engine_parts = lambda: replace(te_parts_of(fake_te), attention=Unreading)
    engine.count_parameters = lambda *_: 0
    # Torch has no meta kernels for sums and exchanges of several tensors at once.
    param_and_grad_buffer._coalescing_manager = _coalescing
    dist.batch_isend_irecv = lambda _: []


def _named_type(tensor: Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    """tensor.type(), as Megatron's optimizers compare it."""
    return seam._TYPE(tensor, dtype, *args, **kwargs) if dtype else f"torch.cuda.{NAMES[tensor.dtype]}Tensor"


class _Done:
    def wait(self) -> None:
        """It is."""


@contextlib.contextmanager
def _coalescing(*_: Any, **__: Any) -> Iterator[_Done]:
    yield _Done()


def _count_reads() -> list[str]:
    """Names of the calls that read a tensor without values, from now on, in their order."""
    reads: list[str] = []

    def counting(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def read(self: Tensor, *args: Any) -> Any:
            if self.device != META:
                return original(self, *args)
            reads.append(name)
            return READING[name](self)

        return read

    for name in READING:
        setattr(Tensor, name, counting(name))
    return reads
