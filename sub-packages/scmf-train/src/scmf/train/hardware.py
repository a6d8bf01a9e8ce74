"""Accelerators by name. In: `h200`, or what a driver calls a chip. Out: its memory and its peak, by datasheet.

Nothing here is measured: the numbers are the vendor's, dense (without sparsity), and no run reaches the peak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scmf.core.errors import ConfigError
from scmf.core.near_word import nearest

_TERA = 1e12
_OTHERS = frozenset({"MIG", "LAPTOP", "MOBILE", "MAX", "TI", "SUPER", "D"})
"""Words that make a name another chip's: a slice of it, or a variant with a peak and a memory of its own."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of accelerator."""

    name: str
    """Lower case, as `scmf-plan --hardware` takes it."""
    title: str
    """The vendor's."""
    memory: int
    """Bytes of one device: the datasheet's GB of 10^9 bytes. Drivers report a few percent more."""
    peak: Mapping[str, float]
    """Dense FLOP/s of matrix products by `trainer.precision`; a precision that it lacks is absent."""
    driver: tuple[str, ...]
    """What the driver's name for it contains, all of them."""

    def peak_of(self, precision: str) -> float:
        """Dense FLOP/s of matrix products.

        Raises:
            ConfigError: it has no such products, or its datasheet does not say.
        """
        if precision in self.peak:
            return self.peak[precision]
        raise ConfigError(
            f"{self.title} has no peak for trainer.precision={precision} in its datasheet",
            where="trainer.precision",
            fix=f"use one of {', '.join(self.peak)}, for example trainer.precision={next(iter(self.peak))}",
        )


def _half(bf16: float, fp32: float | None, fp8: float | None = None) -> dict[str, float | None]:
    """TFLOP/s of a chip that multiplies bf16 as fast as fp16."""
    return {"bf16": bf16, "fp16": bf16, "fp8": fp8, "fp32": fp32}


def _gpu(name: str, title: str, gigabytes: int, rates: Mapping[str, float | None], *driver: str) -> Hardware:
    peak = {precision: rate * _TERA for precision, rate in rates.items() if rate is not None}
    return Hardware(name, title, gigabytes * 10**9, peak, driver)


_ROWS = (
    # GB, then TFLOP/s in half precision, fp32 and fp8. A name that contains another's words comes first.
    _gpu("b200", "NVIDIA B200", 180, _half(2250, None, 4500), "B200"),
    _gpu("h200-nvl", "NVIDIA H200 NVL", 141, _half(835, 60, 1671), "H200", "NVL"),
    _gpu("h200", "NVIDIA H200 SXM", 141, _half(989, 67, 1979), "H200"),
    _gpu("h100-pcie", "NVIDIA H100 PCIe", 80, _half(756, 51, 1513), "H100", "PCIe"),
    _gpu("h100-nvl", "NVIDIA H100 NVL", 94, _half(835, 60, 1671), "H100", "NVL"),
    _gpu("h100", "NVIDIA H100 SXM", 80, _half(989, 67, 1979), "H100"),
    _gpu("a100-40gb", "NVIDIA A100 40 GB", 40, _half(312, 19.5), "A100", "40GB"),
    _gpu("a100", "NVIDIA A100 80 GB", 80, _half(312, 19.5), "A100"),
    _gpu("l40s", "NVIDIA L40S", 48, _half(362, 91.6, 733), "L40S"),
    _gpu("l4", "NVIDIA L4", 24, _half(121, 30.3, 242), "L4"),
    _gpu("a40", "NVIDIA A40", 48, _half(149.7, 37.4), "A40"),
    _gpu("a30", "NVIDIA A30", 24, _half(165, 10.3), "A30"),
    _gpu("a10", "NVIDIA A10", 24, _half(125, 31.2), "A10"),
    _gpu("v100", "NVIDIA V100 SXM2 32 GB", 32, {"fp16": 125, "fp32": 15.7}, "V100", "32GB"),
    _gpu("rtx-a6000", "NVIDIA RTX A6000", 48, _half(154.8, 38.7), "RTX", "A6000"),
    _gpu("rtx-4090", "NVIDIA GeForce RTX 4090", 24, _half(165.2, 82.6, 330.3), "RTX", "4090"),
    _gpu("rtx-3090", "NVIDIA GeForce RTX 3090", 24, _half(71, 35.6), "RTX", "3090"),
    _gpu("t4", "NVIDIA T4", 16, {"fp16": 65, "fp32": 8.1}, "T4"),
)
HARDWARE: dict[str, Hardware] = {row.name: row for row in _ROWS}
"""By name. Source: NVIDIA's datasheet of each chip, and for the RTX cards the Ada and GA102 whitepapers, with fp32
accumulation; rates with sparsity are halved. fp32 is plain fp32: scmf does not switch TF32 on. Chips whose number could
not be checked are left out rather than guessed."""


def find_hardware(name: str) -> Hardware:
    """The accelerator of a name.

    Raises:
        ConfigError: none is called so; with the nearest name.
    """
    found = HARDWARE.get(name.lower())
    if found is not None:
        return found
    near = nearest(name.lower(), HARDWARE)
    known = f"one of {', '.join(HARDWARE)}, or this (the machine that asks)"
    raise ConfigError(
        f"no hardware is called {name!r}",
        where="--hardware",
        fix=f"did you mean --hardware {near}? It is {known}" if near else f"use {known}",
    )


def recognise(driver_name: str) -> Hardware | None:
    """The accelerator that a driver calls so, such as `NVIDIA H100 80GB HBM3`; None where it is not in the table.

    Args:
        driver_name: of torch.cuda.get_device_name.
    """
    words = driver_name.upper().replace("-", " ").split()  # whole words: an L40S is no L4, and an A100 no A10
    if _OTHERS.intersection(words):
        return None
    return next((row for row in _ROWS if all(part.upper() in words for part in row.driver)), None)


def peak_flops(driver_name: str, precision: str) -> float:
    """Dense FLOP/s of a device in the precision of its products; NaN where nobody knows it (a CPU, a chip not listed).

    Args:
        driver_name: of the device.
        precision: `trainer.precision`, resolved.
    """
    found = recognise(driver_name)
    return math.nan if found is None else found.peak.get(precision, math.nan)
