"""A batch as other trainers know it. In: a microbatch. Out: its arrays under the names of Hugging Face and flash-attn.

C cells, W tokens of the longest, T positions of a pack, S segments.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scmf.core.batch import Microbatch

Array = npt.NDArray[Any]

NO_TARGET: Final = -100
"""Label of a position without a target: what torch's cross entropy leaves out."""


def padded_batch(microbatch: Microbatch, *, pad: int, corrupted: bool = True) -> dict[str, Array]:
    """One row a cell, filled up with <pad> to the longest.

    Args:
        microbatch: whole cells, in any layout.
        pad: id of <pad>.
        corrupted: False undoes the corruption and leaves `labels` out.

    Returns:
        input_ids (C, W) int64, attention_mask (C, W) int64 of 1 and 0, labels (C, W) int64, cell_ids (C,) int64.
    """
    cell_starts, lengths = _cells(microbatch, pad)
    width = max(1, int(lengths.max(initial=0)))
    real = np.arange(width) < lengths[:, None]
    # Cells lie in the pack in the order of their rows, so a mask over rows takes them one behind the other.
    places = (cell_starts[:, None] + np.arange(width))[real]
    flat = _flat(microbatch, corrupted=corrupted)
    batch: dict[str, Array] = {"attention_mask": real.astype(np.int64), "cell_ids": microbatch.cell_ids}
    for name, fill in (("input_ids", pad), ("labels", NO_TARGET)):
        if name in flat:
            batch[name] = np.full(real.shape, fill, np.int64)
            batch[name][real] = flat[name][places]
    return batch


def packed_batch(microbatch: Microbatch, *, corrupted: bool = True) -> dict[str, Array]:
    """Cells end to end, as variable-length attention takes them.

    Args:
        microbatch: whole cells, packed.
        corrupted: False undoes the corruption and leaves `labels` out.

    Returns:
        input_ids, position_ids and labels (T,) int64; cu_seqlens (S + 1,) int32 first position of each segment and
        T, of which the first C segments are the cells and the others are padding; max_seqlen () int64 longest
        segment; cell_ids (C,) int64.
    """
    bounds = microbatch.cu_seqlens
    return _flat(microbatch, corrupted=corrupted) | {
        "position_ids": microbatch.positions.astype(np.int64),
        "cu_seqlens": bounds,
        "max_seqlen": np.array(np.diff(bounds).max(initial=0), np.int64),
        "cell_ids": microbatch.cell_ids,
    }


def _flat(microbatch: Microbatch, *, corrupted: bool) -> dict[str, Array]:
    """Tokens and labels of all positions, (T,) int64."""
    ids = microbatch.input_ids.astype(np.int64)
    if not corrupted:
        ids[microbatch.target_positions] = microbatch.targets
        return {"input_ids": ids}
    labels = np.full(len(ids), NO_TARGET, np.int64)
    labels[microbatch.target_positions] = microbatch.targets
    return {"input_ids": ids, "labels": labels}


def _cells(microbatch: Microbatch, pad: int) -> tuple[Array, Array]:
    """(C,) first position and length of each cell: the segments that do not begin with <pad>."""
    bounds = microbatch.cu_seqlens.astype(np.int64)
    starts, lengths = bounds[:-1], np.diff(bounds)
    is_cell = microbatch.input_ids[starts] != pad
    return starts[is_cell], lengths[is_cell]
