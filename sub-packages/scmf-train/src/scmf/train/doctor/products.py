"""Speed of matrix products beside what the chip can do. In: what torch has measured. Out: a check."""

from __future__ import annotations

import math

from scmf.train.doctor.check import Check, ok, warning
from scmf.train.hardware import peak_flops

_LEAST_SHARE = 0.5
"""Of the stated dense peak; a large product on a free H200 reaches 0.8."""


def check_products(products: dict[str, float], *, device: str) -> Check:
    """Compare.

    Args:
        products: FLOP/s by precision.
        device: the driver's name, or `cpu`.
    """
    shares = {name: rate / peak_flops(device, name) for name, rate in products.items()}
    known = {name: share for name, share in shares.items() if not math.isnan(share)}
    found = ", ".join(f"{name} {_rate(rate)}{_of_peak(shares[name])}" for name, rate in products.items())
    if not known:
        return ok("products", f"{found} ({device}: no peak is known)")
    if max(known.values()) >= _LEAST_SHARE:
        return ok("products", f"{found} of {device}")
    return warning(
        "products",
        f"{found} of {device}: less than half of what it can do",
        where=device,
        fix="nvidia-smi -q -d CLOCK,POWER,PERFORMANCE shows limits; nvidia-smi shows other programs on it",
    )


def _rate(flops: float) -> str:
    return f"{flops / 1e12:,.0f} TFLOP/s" if flops >= 1e13 else f"{flops / 1e9:,.0f} GFLOP/s"


def _of_peak(share: float) -> str:
    return "" if math.isnan(share) else f" ({share:.0%} of its peak)"
