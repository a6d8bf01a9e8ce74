"""What a run says about its cells before it begins. In: a stream. Out: lines for people, facts for run.json."""

from __future__ import annotations

from typing import Any

from scmf.data.curriculum import CurriculumDrawing
from scmf.data.shuffle_quality import MOST_CELLS, measure_stream
from scmf.data.step_stream import Reporting
from scmf.data.stream import CellStream


def report_stream(stream: object) -> tuple[list[str], dict[str, Any]]:
    """What a stream says of itself; a class of the user's own may have nothing to say.

    Returns:
        Lines for the console, and plain values for the run's record.
    """
    if isinstance(stream, CellStream):
        return report_cells(stream)
    return stream.report() if isinstance(stream, Reporting) else ([], {})


def report_cells(stream: CellStream) -> tuple[list[str], dict[str, Any]]:
    """How cells are read, split, ordered and drawn, with the quality of the order measured on its first epoch.

    Args:
        stream: of a run's cells.

    Returns:
        Lines for the console, and plain values for the run's record.
    """
    config = stream.config
    qualities = measure_stream(stream)
    lines = [f"read   by {stream.store.reading}"]
    if str(stream.splits):
        lines.append(f"split  {stream.splits}")
    sampling = config.sampling.identity()
    lines.append(f"order  {_words(config.order.model_dump(mode='json'))}; sampling {_words(sampling)}")
    lines += _curriculum(stream)
    if config.order.kind != "random":  # that is as mixed as can be; the record has its numbers too
        lines += [f"       {quality}" for quality in qualities]
    lines += [f"label  {note}" for labels in stream.labels.values() for note in labels.notes]
    if len(stream.store) > MOST_CELLS:
        lines.append("       quality not measured above 5 million cells; see scmf-store shuffle-quality")
    facts = {
        "read": str(stream.store.reading),
        "split": str(stream.splits),
        "order": config.order.model_dump(mode="json"),
        "sampling": sampling,
        "curriculum": None if config.curriculum is None else config.curriculum.model_dump(mode="json"),
        "shuffle_quality": [quality.as_dict() for quality in qualities],
    }
    return lines, facts


def _curriculum(stream: CellStream) -> list[str]:
    """How the cells of a curriculum grow; nothing without one."""
    config, drawing = stream.config.curriculum, stream.drawing
    if config is None or not isinstance(drawing, CurriculumDrawing):
        return []
    what = "genes a cell expresses" if config.by == "length" else f"obs column {config.by}"
    (first, bound), (_, last) = drawing.bound_at(0), drawing.bound_at(2**62)
    side = "at least" if config.hard_first else "up to"
    grows = f"all ({side} {last:g}) after {config.steps:,} steps, {config.pacing}"
    at_first = f"at first {first:,} of {stream.n_train:,} training cells ({side} {bound:g})"
    return [f"       curriculum by {what}: {at_first}, {grows}"]


def _words(values: dict[str, Any]) -> str:
    """`blocks (block 64, window 4096)`."""
    others = ", ".join(f"{key} {value}" for key, value in values.items() if key != "kind")
    return f"{values['kind']} ({others})" if others else str(values["kind"])
