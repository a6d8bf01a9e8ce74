"""What torch says of itself and of its devices, as JSON. Run by the doctor in a process of its own."""

from __future__ import annotations

import json
import sys
import time

import torch

from scmf.model.device import accelerator_facts, local_device, wait_for

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ON_CORES = ("fp32", "bf16")  # fp16 is emulated there: one product takes seconds
_SECONDS = 0.4
"""Measured for each type."""
_WIDTH = {"cpu": 1024, "cuda": 8192}


def main() -> None:
    """Print one object."""
    facts = accelerator_facts()
    if "--products" in sys.argv:
        facts["products"] = {name: flops_of(_TYPES[name]) for name in (_TYPES if facts["devices"] else _ON_CORES)}
    sys.stdout.write(json.dumps(facts) + "\n")


def flops_of(dtype: torch.dtype) -> float:
    """FLOP/s of one square matrix product on this process's device, warmed up; the fastest of several."""
    device = local_device()
    width = _WIDTH[device.type]
    left = torch.randn(width, width, device=device).to(dtype)
    right = torch.randn(width, width, device=device).to(dtype)
    best, until = float("inf"), None
    while until is None or time.perf_counter() < until:
        begun = time.perf_counter()
        torch.matmul(left, right)
        wait_for(device)
        took = time.perf_counter() - begun
        if until is None:
            until = time.perf_counter() + _SECONDS  # the first one warms up
        else:
            best = min(best, took)
    return 2 * width**3 / (best if best < float("inf") else took)


if __name__ == "__main__":
    main()
