"""Devices of this machine. In: `trainer.devices`. Out: how many ranks to start here."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Literal

from scmf.core.errors import MachineError


def devices_to_use(devices: int | Literal["auto"]) -> int:
    """Ranks to start on this node.

    Args:
        devices: a number that is met exactly, or "auto": every GPU, or one process where there is none.

    Raises:
        MachineError: more GPUs asked for than there are.
    """
    found = _gpus()
    if devices == "auto":
        return max(1, found)
    if found and devices > found:
        raise MachineError(
            f"trainer.devices={devices}, and this machine has {found} GPUs",
            where="trainer.devices",
            fix=f"use trainer.devices={found} or auto; for CPU ranks: CUDA_VISIBLE_DEVICES= scmf-train ...",
        )
    return devices


def _gpus() -> int:
    """GPUs visible to this process; without importing torch where there is no driver at all."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if hidden or sys.platform == "darwin" or shutil.which("nvidia-smi") is None:
        return 0
    from scmf.model.device import gpu_count

    return gpu_count()
