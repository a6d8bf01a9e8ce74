"""Accelerators that a run can be planned for. In: a name such as `h200`. Out: its memory and its row of `chips`.

Nothing here is measured: the numbers are the maker's, and no run reaches the peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from scmf.core.command import nearest
from scmf.core.errors import ConfigError
from scmf.train.chips import CHIPS, Chip, Products

THIS = "this"
"""The machine that asks."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of accelerator."""

    name: str
    """Lower case, as `scmf-plan --hardware` takes it."""
    chip: Chip
    memory: int
    """Bytes of one device: the datasheet's GB of 10^9 bytes. Drivers report a few percent more."""

    def peak(self, precision: str) -> float:
        """Dense FLOP/s of matrix products.

        Raises:
            ConfigError: it has no such products.
        """
        peak = self.chip.peak(cast("Products", precision))
        if peak is not None:
            return peak
        known = [p for p in ("bf16", "fp16", "fp32") if self.chip.peak(cast("Products", p)) is not None]
        raise ConfigError(
            f"{self.chip.name} has no products in trainer.precision={precision}",
            where="trainer.precision",
            fix=f"use trainer.precision={known[0]}; it has {', '.join(known)}",
        )


_MEMORY = {
    "b200": ("B200", 180),
    "h200": ("H200 SXM", 141),
    "h200-nvl": ("H200 NVL", 141),
    "gh200": ("GH200", 96),
    "h100": ("H100 SXM", 80),
    "h100-pcie": ("H100 PCIe", 80),
    "h100-nvl": ("H100 NVL", 94),
    "a100": ("A100", 80),
    "a100-40gb": ("A100", 40),
    "l40s": ("L40S", 48),
    "l4": ("L4", 24),
    "a40": ("A40", 48),
    "a30": ("A30", 24),
    "a10": ("A10", 24),
    "v100": ("V100 SXM", 32),
    "v100-16gb": ("V100 SXM", 16),
    "t4": ("T4", 16),
}
_CHIPS = {chip.name: chip for chip in CHIPS}
HARDWARE: dict[str, Hardware] = {
    name: Hardware(name, _CHIPS[chip], gigabytes * 10**9) for name, (chip, gigabytes) in _MEMORY.items()
}
"""By name. Source: the datasheets that `scmf.train.chips` names; GB of one device."""


def find_hardware(name: str) -> Hardware:
    """The accelerator of a name.

    Raises:
        ConfigError: none is called so; with the nearest name.
    """
    found = HARDWARE.get(name.lower())
    if found is not None:
        return found
    near = nearest(name.lower(), HARDWARE)
    known = f"one of {', '.join(HARDWARE)}, or {THIS}"
    raise ConfigError(
        f"no hardware is called {name!r}",
        where="--hardware",
        fix=f"did you mean --hardware {near}? It takes {known}" if near else f"use {known}",
    )
