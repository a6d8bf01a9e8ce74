"""What chips can do at most. In: a device's name and a precision. Out: dense FLOP/s by its datasheet, or nothing.

A peak is what the maker states for dense matrix products: twice as much is often printed, for sparse ones. Products of
fp32 are taken at the peak of plain fp32, because scmf does not switch TF32 on. A name that is not in the table, a part
of a chip (MIG) and a CPU have no peak here: `trainer.log.peak_tflops` gives one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Products = Literal["fp32", "fp16", "bf16", "fp8"]


@dataclass(frozen=True, slots=True)
class Chip:
    """One row of the table; TFLOP/s, dense; None where the chip has no such products."""

    name: str
    pattern: str
    """Regular expression of the whole name that the driver gives."""
    fp32: float
    fp16: float
    bf16: float | None
    fp8: float | None
    source: str

    def peak(self, products: Products) -> float | None:
        """FLOP/s of products in a precision; None where there are none."""
        tera: float | None = getattr(self, products)
        return None if tera is None else tera * 1e12


_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet; half of the values with sparsity"
_ADA = "NVIDIA Ada GPU architecture whitepaper; with fp32 accumulation"

CHIPS: Final = (
    Chip("V100 SXM", r"(Tesla|NVIDIA) V100-SXM[23]-\d+GB(-LS)?", 15.7, 125, None, None, "NVIDIA V100 datasheet"),
    Chip("V100 PCIe", r"(Tesla|NVIDIA) V100-PCIE-\d+GB", 14, 112, None, None, "NVIDIA V100 datasheet"),
    Chip("T4", r"(Tesla|NVIDIA) T4", 8.1, 65, None, None, "NVIDIA T4 datasheet"),
    Chip("A100", r"(NVIDIA )?A100([ -](SXM4|PCIE?|PCIe|\d+GB))*", 19.5, 312, 312, None, "NVIDIA A100 datasheet"),
    Chip("A30", r"(NVIDIA )?A30", 10.3, 165, 165, None, "NVIDIA A30 datasheet"),
    Chip("A40", r"(NVIDIA )?A40", 37.4, 149.7, 149.7, None, "NVIDIA A40 datasheet"),
    Chip("A10", r"(NVIDIA )?A10", 31.2, 125, 125, None, "NVIDIA A10 datasheet"),
    Chip("RTX A6000", r"(NVIDIA )?RTX A6000", 38.7, 154.8, 154.8, None, "NVIDIA Ampere GA102 whitepaper"),
    Chip("RTX 3090", r"(NVIDIA )?GeForce RTX 3090", 35.6, 71, 71, None, "NVIDIA Ampere GA102 whitepaper, as above"),
    Chip("RTX 4090", r"(NVIDIA )?GeForce RTX 4090", 82.6, 165.2, 165.2, 330.3, _ADA),
    Chip("L4", r"(NVIDIA )?L4", 30.3, 121, 121, 242.5, "NVIDIA L4 datasheet; half of the values with sparsity"),
    Chip("L40S", r"(NVIDIA )?L40S", 91.6, 362, 362, 733, "NVIDIA L40S datasheet"),
    Chip("H100 SXM", r"(NVIDIA )?H100( SXM5?)?( 80GB HBM3)?", 67, 989.5, 989.5, 1979, _HOPPER),
    Chip("H100 PCIe", r"(NVIDIA )?H100 PCIe", 51, 756.5, 756.5, 1513, _HOPPER),
    Chip("H100 NVL", r"(NVIDIA )?H100 NVL", 60, 835.5, 835.5, 1671, _HOPPER),
    Chip("H200 SXM", r"(NVIDIA )?H200", 67, 989.5, 989.5, 1979, "NVIDIA H200 datasheet; half of those with sparsity"),
    Chip(
        "H200 NVL", r"(NVIDIA )?H200 NVL", 60, 835.5, 835.5, 1671, "NVIDIA H200 datasheet; half of those with sparsity"
    ),
    Chip(
        "GH200", r"(NVIDIA )?GH200 \d+GB", 67, 989.5, 989.5, 1979, "NVIDIA GH200 datasheet; half of those with sparsity"
    ),
    Chip(
        "B200", r"(NVIDIA )?B200", 75, 2250, 2250, 4500, "NVIDIA HGX B200, an eighth of the eight; half with sparsity"
    ),
)
"""One device each. Chips whose stated peak could not be checked are left out rather than guessed."""


def find_chip(name: str) -> Chip | None:
    """The row of a device; None where the table has none.

    Args:
        name: as the driver gives it, such as NVIDIA H100 80GB HBM3.
    """
    return next((chip for chip in CHIPS if re.fullmatch(chip.pattern, name)), None)


def dense_peak(name: str, products: Products) -> float | None:
    """FLOP/s that a device can do at most in a precision; None where its maker's number is not known here.

    Args:
        name: as the driver gives it.
        products: precision of the matrix products, as `trainer.precision` resolves.
    """
    chip = find_chip(name)
    return None if chip is None else chip.peak(products)
