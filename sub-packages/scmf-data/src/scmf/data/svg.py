"""Bars as SVG. In: labels and heights. Out: a piece of a page, without script or network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

_WIDTH: Final = 640
_HEIGHT: Final = 200
_LEFT: Final = 8
_BOTTOM: Final = 24
_ROW: Final = 20
_NAMES: Final = 220


def columns(bars: Sequence[tuple[float, float, int]], *, unit: str, value: Callable[[float], float] = float) -> str:
    """A histogram: each bar from one place of the axis to another, with its number of cells.

    Args:
        bars: (from, to, cells), rising.
        unit: what the axis counts.
        value: what a place of the axis stands for, where that is not the place itself.
    """
    if not bars:
        return "<p>no cells</p>"
    low, high = bars[0][0], max(bars[-1][1], bars[0][0] + 1)
    most = max(cells for _, _, cells in bars)
    scale = (_WIDTH - 2 * _LEFT) / (high - low)
    drawn = []
    for start, stop, cells in bars:
        x, width = _LEFT + (start - low) * scale, max(1.0, (stop - start) * scale - 1)
        height = (_HEIGHT - _BOTTOM) * cells / most
        title = f"{value(start):,.0f} to {value(stop):,.0f} {unit}: {cells:,} cells"
        drawn.append(_rectangle(x, _HEIGHT - _BOTTOM - height, width, height, title))
    axis = _text(_LEFT, _HEIGHT - 6, f"{value(low):,.0f}", "start")
    axis += _text(_WIDTH - _LEFT, _HEIGHT - 6, f"{value(high):,.0f} {unit}", "end")
    return _picture(_HEIGHT, "".join(drawn) + axis)


def rows(bars: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars, one a name: (name, length, what to write behind it)."""
    most = max((length for _, length, _ in bars), default=0) or 1
    drawn = []
    for k, (name, length, note) in enumerate(bars):
        y, width = k * _ROW, (_WIDTH - _NAMES - 130) * length / most
        drawn.append(_text(_NAMES - 6, y + 14, name if len(name) < 32 else name[:30] + "…", "end"))
        drawn.append(_rectangle(_NAMES, y + 3, max(1.0, width), _ROW - 6, f"{name}: {note}"))
        drawn.append(_text(_NAMES + width + 6, y + 14, note, "start"))
    return _picture(_ROW * max(1, len(bars)), "".join(drawn))


def _picture(height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">{content}</svg>'


def _rectangle(x: float, y: float, width: float, height: float, title: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f"<rect {place}><title>{escape(title)}</title></rect>"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
