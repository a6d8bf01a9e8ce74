"""What a run says about its cells before it begins. In: a stream. Out: lines for people, facts for run.json."""

from __future__ import annotations

from typing import Any

from scmf.data.shuffle_quality import MOST_CELLS, measure_stream
from scmf.data.stream import CellStream


def report_stream(stream: object) -> tuple[list[str], dict[str, Any]]:
    """How cells are read, split, ordered and drawn, with the quality of the order measured on its first epoch.

    Args:
        stream: a CellStream; a class of the user's own has nothing to report.

    Returns:
        Lines for the console, and plain values for the run's record.
    """
    if not isinstance(stream, CellStream):
        return [], {}
    config = stream.config
    qualities = measure_stream(stream)
    lines = [f"read   by {stream.store.reading}"]
    if str(stream.splits):
        lines.append(f"split  {stream.splits}")
    lines.append(f"order  {_words(config.order)}; sampling {_words(config.sampling)}")
    lines += [f"       {quality}" for quality in qualities]
    if len(stream.store) > MOST_CELLS:
        lines.append("       quality not measured above 5 million cells; see scmf-store shuffle-quality")
    facts = {
        "read": str(stream.store.reading),
        "split": str(stream.splits),
        "order": config.order.model_dump(mode="json"),
        "sampling": config.sampling.model_dump(mode="json"),
        "shuffle_quality": [quality.as_dict() for quality in qualities],
    }
    return lines, facts


def _words(section: Any) -> str:
    """`blocks (block 64, window 4096)`."""
    values = section.model_dump(mode="json")
    others = ", ".join(f"{key} {value}" for key, value in values.items() if key != "kind")
    return f"{values['kind']} ({others})" if others else str(values["kind"])
