"""What was done to counts. In: values of some cells that are no integers. Out: the transformation that explains them.

Only what the values prove is said: a logarithm whose inverse gives integers in (nearly) every value, or values
of a cell that are (nearly) all multiples of one number of that cell. Float noise of float32 is allowed for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_MOST: Final = 0.95
"""Share of the values (or cells) that has to agree: a few may be cut off or lie beyond float32."""
_LOGS: Final[dict[str, Callable[[Array], Array]]] = {
    "log(1 + {})": np.expm1,
    "log2(1 + {})": lambda v: np.exp2(v) - 1,
    "log10(1 + {})": lambda v: np.power(10.0, v) - 1,
}
_LARGEST_LOG: Final = 25.0
"""log(1 + x) of float64 counts up to 4,294,967,295 is 22; values above are no logarithms of counts."""
_LEAST_VALUES: Final = 5
"""Values above zero that a cell needs to say anything about a factor."""
_STEPS: Final = 5
"""The lowest value of a cell stands for at most this count."""


@dataclass(frozen=True, slots=True)
class Transform:
    """An explanation of values that are no counts."""

    number: str
    """Key in the table of findings."""
    text: str
    """What the values are: `log(1 + count)`."""
    inverse: str | None = None
    """NumPy expression of `x` that gives the counts back, where that is proved."""


def recognise(rows: Sequence[Array]) -> Transform | None:
    """Explain the values of some cells; None where nothing is proved.

    Args:
        rows: values of each cell, float64; zeros, negative and non-finite values are passed over.
    """
    cells = [v[np.isfinite(v) & (v > 0)] for v in rows]
    cells = [v for v in cells if v.size]
    values = np.concatenate(cells) if cells else np.empty(0)
    if not values.size or _whole(values, np.zeros(0)).all():
        return None
    return (
        _logarithm_of_counts(values) or _scaled(cells, "{}", "D019") or _logarithm_of_scaled(cells) or _partly(values)
    )


def _whole(values: Array, tolerance: Array) -> Array:
    """Which values are integers; the tolerance grows with the value, as float32's steps do."""
    room = tolerance if tolerance.size else 1e-4 + 5e-7 * np.abs(values)
    whole: Array = np.abs(values - np.rint(values)) <= np.minimum(room, 0.1)
    return whole


def _logarithm_of_counts(values: Array) -> Transform | None:
    if values.max() > _LARGEST_LOG:
        return None
    expressions = {"log(1 + {})": "np.expm1(x)", "log2(1 + {})": "np.exp2(x) - 1", "log10(1 + {})": "10.0**x - 1"}
    for name, inverse in _LOGS.items():
        counts = inverse(values)
        # A float32 logarithm v is off by 6e-8 v, and so its count c by 6e-8 v (c + 1).
        room = 1e-4 + 2e-7 * (values + 1) * (counts + 1)
        known = room < 0.1
        if known.any() and counts[known].max() >= 1 and _whole(counts[known], room[known]).mean() >= _MOST:
            return Transform("D018", name.format("count"), f"np.rint({expressions[name]})")
    return None


def _logarithm_of_scaled(cells: Sequence[Array]) -> Transform | None:
    if max(float(v.max()) for v in cells) > _LARGEST_LOG:
        return None
    found = (_scaled([inverse(v) for v in cells], name, "D020") for name, inverse in _LOGS.items())
    return next((f for f in found if f is not None), None)


def _scaled(cells: Sequence[Array], name: str, number: str) -> Transform | None:
    """Whether every cell's values are multiples of one number of its own, or all cells have one sum."""
    totals = np.array([v.sum() for v in cells])
    said = [_multiples(v) for v in cells]
    judged = [s for s in said if s is not None]
    multiples = len(judged) >= min(3, len(cells)) and len(judged) > 0 and np.mean(judged) >= _MOST
    level = len(cells) >= 3 and float(np.ptp(totals)) <= 2e-3 * float(totals.mean())
    if not multiples and not level:
        return None
    what = "count x one factor a cell" if multiples else "count x factors"
    total = f", every cell summing to {_round(float(np.median(totals)))}" if level else ""
    return Transform(number, name.format(what) + total)


def _multiples(values: Array) -> bool | None:
    """Whether the values are multiples of one number; None where they cannot tell."""
    distinct = np.unique(values)
    if values.size < _LEAST_VALUES or distinct.size < 2 or distinct[-1] > 5e3 * distinct[0]:
        return None
    for step in range(1, _STEPS + 1):
        ratios = distinct * (step / distinct[0])
        if _whole(ratios, 1e-3 + 1e-5 * ratios).mean() >= _MOST:
            # Values close together would all be near some multiple of a small enough unit.
            return bool(distinct[-1] / distinct[0] > 1.1)
    return False


def _partly(values: Array) -> Transform | None:
    """Fractional counts: half of the values are integers or at most a tenth below one; evenly spread ones give 0.1."""
    below = np.ceil(values) - values
    whole, near = float(_whole(values, np.zeros(0)).mean()), float((below <= 0.1).mean())
    if near < 0.5:
        return None
    text = f"fractional counts: {whole:.0%} are integers and {near - min(whole, near):.0%} lie just below one"
    return Transform("D021", text)


def _round(total: float) -> str:
    digits = max(0, int(np.floor(np.log10(total))) - 3) if total > 0 else 0
    return f"{round(total, -digits):,.0f}"
