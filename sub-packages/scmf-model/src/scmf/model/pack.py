"""A pack on the device. In: a NumPy Microbatch. Out: tensors as the encoder takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scmf.core.batch import Microbatch
from scmf.model.megatron import PackedSeqParams


@dataclass(frozen=True, slots=True)
class PackTargets:
    """Labelled cells of a pack on the device, for one objective. L labelled cells."""

    segments: Tensor
    """(L,) int64 numbers of their segments."""
    values: Tensor
    """(L,) int64 classes or float32 numbers."""


@dataclass(frozen=True, slots=True)
class Pack:
    """One microbatch on the device. T positions, M targets."""

    input_ids: Tensor
    """(T,) int64."""
    positions: Tensor
    """(T,) int64."""
    target_positions: Tensor
    """(M,) int64."""
    targets: Tensor
    """(M,) int64."""
    packed_seq_params: Any
    """Megatron's description of the segments; int32 cu_seqlens."""
    cell_targets: Mapping[str, PackTargets]
    """By the name of each objective about whole cells."""

    @classmethod
    def of(cls, batch: Microbatch, device: torch.device) -> Pack:
        """Copy a microbatch to the device."""

        def put(array: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
            tensor = torch.from_numpy(array)
            # From pinned memory the copy waits for nothing.
            tensor = tensor.pin_memory() if device.type == "cuda" else tensor
            return tensor.to(device=device, dtype=dtype, non_blocking=True)

        cu_seqlens = put(batch.cu_seqlens, torch.int32)
        return cls(
            input_ids=put(batch.input_ids, torch.int64),
            positions=put(batch.positions, torch.int64),
            target_positions=put(batch.target_positions, torch.int64),
            targets=put(batch.targets, torch.int64),
            packed_seq_params=PackedSeqParams(
                qkv_format="thd",
                cu_seqlens_q=cu_seqlens,
                cu_seqlens_kv=cu_seqlens,
                max_seqlen_q=batch.longest,
                max_seqlen_kv=batch.longest,
            ),
            cell_targets={
                name: PackTargets(
                    put(found.segments, torch.int64),
                    put(found.values, torch.float32 if found.values.dtype == np.float32 else torch.int64),
                )
                for name, found in batch.cell_targets.items()
            },
        )
