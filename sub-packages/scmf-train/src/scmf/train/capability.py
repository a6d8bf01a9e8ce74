"""What this machine can compute rightly. In: a precision and what the machine has. Out: nothing, or the reason."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scmf.core.errors import MachineError
from scmf.model.device import compute_capability, cuda_version, has_transformer_engine
from scmf.model.transformer_config import Fp8Recipe, Precision

FP8_CAPABILITY: dict[Fp8Recipe, tuple[int, int]] = {
    "current": (8, 9),
    "delayed": (8, 9),
    "block": (9, 0),
    "mxfp8": (10, 0),
}
"""Least compute capability of each recipe. Source: Transformer Engine 2.11, `check_fp8_support` and its relatives."""
FP8_TOO_NEW: dict[Fp8Recipe, tuple[int, int]] = {"mxfp8": (12, 0)}
"""Capability from which a recipe is not supported. Source: the same."""
FP8_CUDA: dict[Fp8Recipe, tuple[int, int]] = {"block": (12, 9)}
"""Least CUDA that torch has to be built for. Source: the same; every torch that scmf takes has what the others need."""


@dataclass(frozen=True)
class Machine:
    """What decides about a precision."""

    capability: tuple[int, int] | None
    """Of the GPU; None without one."""
    transformer_engine: bool
    cuda: tuple[int, int] | None = None
    """That torch was built for; None without it."""


def this_machine(device: torch.device) -> Machine:
    """What there is for a rank on `device`."""
    return Machine(compute_capability(device), has_transformer_engine(), cuda_version())


def refuse_precision(precision: Precision, recipe: Fp8Recipe, machine: Machine) -> None:
    """Refuse a precision that would fail, or be emulated unnoticed.

    Args:
        precision: as resolved; never auto.
        recipe: of fp8.
        machine: this one.

    Raises:
        MachineError: with what is missing.
    """
    if precision == "bf16" and machine.capability is not None and machine.capability < (8, 0):
        raise _refusal(
            "bf16", f"a GPU of compute capability 8.0, and this one has {_dotted(machine.capability)}", "fp16"
        )
    if precision != "fp8":
        return
    if not machine.transformer_engine or machine.capability is None:
        raise _refusal("fp8", "Transformer Engine on a GPU, and this machine has none of it", "bf16")
    least = FP8_CAPABILITY[recipe]
    if machine.capability < least:
        what = f"a GPU of compute capability {_dotted(least)} for trainer.fp8.recipe={recipe}, and this one has "
        other = "bf16" if machine.capability < FP8_CAPABILITY["current"] else "fp8 with trainer.fp8.recipe=current"
        raise _refusal("fp8", what + _dotted(machine.capability), other)
    current = "fp8 with trainer.fp8.recipe=current"
    if machine.capability >= FP8_TOO_NEW.get(recipe, (99, 0)):
        below = f"a GPU below compute capability {_dotted(FP8_TOO_NEW[recipe])} for trainer.fp8.recipe={recipe}"
        raise _refusal("fp8", f"{below}, and this one has {_dotted(machine.capability)}", current)
    if machine.cuda is not None and machine.cuda < FP8_CUDA.get(recipe, (0, 0)):
        what = f"a torch for CUDA {_dotted(FP8_CUDA[recipe])} for trainer.fp8.recipe={recipe}, and this one is for "
        raise _refusal("fp8", what + _dotted(machine.cuda), current)


def _refusal(precision: str, needs: str, instead: str) -> MachineError:
    return MachineError(
        f"trainer.precision={precision} needs {needs}",
        where="trainer.precision",
        fix=f"use trainer.precision={instead}; what each precision needs is in docs/gpu.md",
    )


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
