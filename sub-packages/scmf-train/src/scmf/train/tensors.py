"""The part of a tensor that this rank holds. In: a tensor, perhaps sharded by torch. Out: a plain one."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor, always the same object; any other tensor itself."""
    # not to_local(), which answers with a new view every time: entries of a checkpoint are found by their tensor.
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor  # noqa: SLF001
