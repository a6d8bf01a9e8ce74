"""Time of a step. In: shapes of its microbatches, and either an assumed share of a chip's peak or measured rates.
Out: seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scmf.model.config import ModelConfig
from scmf.train.config import MainConfig, ParallelConfig
from scmf.train.flops import computed_flops, head_flops, seen_pairs, token_flops, training_flops
from scmf.train.plan.workload import Shape, Workload

FORWARD = 1 / 3
"""Share of a step's products that a validation takes: no backward pass."""
ASSUMED_SHARE = (0.15, 0.40)
"""Assumed, not measured: share of a GPU's dense peak that matrix products of these sizes reach. 0.40 is a usual figure
for widths of 768 and above with long packs, 0.15 for widths of 256, whose kernels are short."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Products:
    """FLOPs of a mean step on one replica."""

    real: float
    """Of real tokens, the mean over the replicas: what MFU counts."""
    computed: float
    """With padding and what is computed twice, on the first replica: what its chips do."""
    real_per_cell: float


def products_of(model: ModelConfig, workload: Workload, *, parallel: ParallelConfig) -> Products:
    """FLOPs of the steps that were looked at, on average.

    Args:
        model: sizes and task.
        workload: shapes of steps.
        parallel: for what is recomputed.
    """
    size, shapes, lengths = workload.vocabulary_size, workload.shapes, workload.lengths
    targets = round(workload.target_share * int(lengths.sum()))
    real = training_flops(model, lengths=lengths.tolist(), targets=targets, vocabulary_size=size) / len(lengths)
    real *= workload.pieces
    computed = sum(
        computed_flops(
            model,
            positions=s.positions,
            segments=s.segments.tolist(),
            targets=s.targets,
            vocabulary_size=size,
            recompute=parallel.recompute,
        )
        for s in shapes
    )
    return Products(real * workload.batch / workload.replicas, computed / len(workload.steps), real)


def bubble(parallel: ParallelConfig, microbatches: float) -> float:
    """How many times longer a step is because pipeline ranks wait at its ends: 1 + (p - 1) / (m v).

    Args:
        parallel: p pipeline ranks, each of v interleaved stages.
        microbatches: m of a step on one replica.

    Source: Narayanan et al., 2021 (arXiv:2104.04473).
    """
    return 1.0 + (parallel.pipeline - 1) / (max(1.0, microbatches) * parallel.interleave)


def seconds_at(
    products: Products, *, peak: float, share: float, parallel: ParallelConfig, microbatches: float
) -> float:
    """Seconds of a mean step on chips of which a share of the peak is assumed to be reached.

    Args:
        products: of one replica.
        peak: FLOP/s of one device.
        share: of the peak, 0 to 1.
        parallel: ranks that share a replica.
        microbatches: of a step on one replica.
    """
    each = products.computed / parallel.model_ranks
    return each / (peak * share) * bubble(parallel, microbatches)


@dataclass(frozen=True, slots=True)
class Rates:
    """What a step takes on a machine, by what it consists of. Seconds of a clock, or of its processors."""

    step: float
    """A step without microbatches: the optimizer, the norm of the gradient."""
    microbatch: float
    """A microbatch without positions: starting every kernel."""
    linear: float
    """A FLOP of the products with weights, those of the head included."""
    pair: float
    """A pair of tokens that attention compares, in all layers and heads."""

    def seconds(self, model: ModelConfig, step: Sequence[Shape], *, vocabulary_size: int) -> float:
        """Time of one step.

        Args:
            model: the one that was measured.
            step: its microbatches.
            vocabulary_size: before padding.
        """
        parts = np.sum([_parts(model, shape, vocabulary_size) for shape in step], axis=0, initial=0.0)
        return float(self.step + np.dot(parts, (self.microbatch, self.linear, self.pair)))


@dataclass(frozen=True, slots=True)
class Timing:
    """A step that was measured."""

    step: tuple[Shape, ...]
    seconds: float


def fit_rates(model: ModelConfig, timings: Sequence[Timing], *, vocabulary_size: int) -> Rates:
    """Rates that explain measured steps best; none is negative.

    Least squares of relative errors, so that a short step counts as much as a long one.

    Args:
        model: that was measured.
        timings: at least one; steps that differ in microbatches, positions and segments tell the rates apart.
        vocabulary_size: before padding.
    """
    from scipy.optimize import nnls

    rows = [
        np.array([1.0, *np.sum([_parts(model, s, vocabulary_size) for s in t.step], axis=0)]) / t.seconds
        for t in timings
    ]
    matrix: Array = np.array(rows)
    # Columns of one size: the numbers of FLOPs are 1e12 times those of microbatches.
    scale = np.maximum(matrix.max(axis=0), 1e-300)
    found, _ = nnls(matrix / scale, np.ones(len(timings)))
    return Rates(*(float(x) for x in found / scale))


def _parts(model: ModelConfig, shape: Shape, vocabulary_size: int) -> Array:
    """One microbatch, FLOPs of products with weights, pairs."""
    linear = model.layers * shape.positions * token_flops(model) + shape.targets * head_flops(model, vocabulary_size)
    pairs = sum(seen_pairs(model, length) for length in shape.segments.tolist())
    return np.array([1.0, 3.0 * linear, float(pairs)])


def validation_share(config: MainConfig, *, n_validation: int | None) -> float:
    """Validations' part of the time of training steps: forward passes alone, every so many steps.

    Args:
        config: of the run.
        n_validation: cells held out; None where that is not known, and all batches are taken to exist.
    """
    validation, batch = config.trainer.validation, config.data.global_batch_size
    if validation.every is None or n_validation == 0:
        return 0.0
    batches = float(validation.batches) if n_validation is None else min(validation.batches, n_validation / batch)
    return FORWARD * batches / validation.every
