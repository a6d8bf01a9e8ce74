"""How well a run uses its devices. In: batches. Out: their FLOPs by formula, and the peak that they are a share of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scmf.core.batch import Microbatch, StepBatch
from scmf.data.step_stream import StepStream
from scmf.model.config import ModelConfig
from scmf.model.transformer_config import Precision
from scmf.train.config import MainConfig
from scmf.train.flops import training_flops
from scmf.train.hardware import peak_flops


@dataclass(frozen=True, slots=True)
class Meter:
    """Counts the FLOPs of batches and knows the peak of all ranks together."""

    model: ModelConfig
    vocabulary_size: int
    pad: int | None
    """Token id of the positions that belong to no cell; None where real tokens lie first in every microbatch."""
    peak: float
    """FLOP/s, dense, of all devices of the run."""

    def kiloflops(self, batch: StepBatch) -> int:
        """Thousands of FLOPs of this replica's share of a step: real tokens and targets, nothing computed twice."""
        lengths = [length for m in batch.microbatches for length in cell_lengths(m, self.pad).tolist()]
        targets = sum(len(m.targets) for m in batch.microbatches)
        return (
            training_flops(self.model, lengths=lengths, targets=targets, vocabulary_size=self.vocabulary_size) // 1000
        )

    def share(self, kiloflops: int, seconds: float) -> float:
        """Model FLOPs utilisation (MFU): FLOPs of all replicas / seconds / peak of all devices."""
        return kiloflops * 1e3 / seconds / self.peak


def cell_lengths(microbatch: Microbatch, pad: int | None) -> npt.NDArray[np.int32]:
    """Tokens of each cell of a microbatch, or of each piece of its windows, (segments,) int32.

    Args:
        microbatch: packed or padded.
        pad: token id with which segments of padding begin; None where the real tokens come first.
    """
    lengths: npt.NDArray[np.int32] = np.diff(microbatch.cu_seqlens)
    if pad is None:
        return lengths[microbatch.cu_seqlens[:-1] < microbatch.tokens]
    of_cells: npt.NDArray[np.int32] = lengths[microbatch.input_ids[microbatch.cu_seqlens[:-1]] != pad]
    return of_cells


def find_meter(
    config: MainConfig, stream: StepStream, *, device: str, precision: Precision, ranks: int
) -> tuple[Meter | None, str | None]:
    """The meter of a run; or None, and a sentence that says why speed/mfu is left out.

    Args:
        config: of the run.
        stream: whose batches are counted.
        device: its name, as the driver gives it; cpu without one.
        precision: of the products, resolved.
        ranks: of the run, a device each.
    """
    given = config.trainer.log.peak_tflops
    peak = peak_flops(device, precision) if given is None else given * 1e12
    if math.isnan(peak):
        return None, (
            f"speed/mfu is left out: no peak in {precision} is known of {device}; trainer.log.peak_tflops gives one"
        )
    pad = None if config.data.packing else getattr(stream.vocabulary, "pad", None)
    if pad is None and not config.data.packing:
        return None, "speed/mfu is left out: the vocabulary does not say which token is padding (data.packing: false)"
    return Meter(config.model, len(stream.vocabulary), pad, peak * ranks), None
