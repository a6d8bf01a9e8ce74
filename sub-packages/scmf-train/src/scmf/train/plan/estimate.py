"""What a run will take. In: a config, a target, a workload. Out: a Plan, every number of it with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from scmf.train.alignment import align_of
from scmf.train.config import MainConfig
from scmf.train.flops import utilisation
from scmf.train.objective import objective_of, predicted_share
from scmf.train.plan.cost import Products, Rates, products_of, seconds_at, validation_share
from scmf.train.plan.memory import Memory, Place, memory_of, save_bytes, stage_parameters
from scmf.train.plan.probe_result import Measured
from scmf.train.plan.target import Target
from scmf.train.plan.workload import Workload, full_shape, largest_shape

Basis = Literal["assumed", "measured"]


@dataclass(frozen=True, slots=True)
class Speed:
    """How long the run takes under one supposition."""

    basis: Basis
    share: float
    """Share of the peak: assumed, or what the measurement comes to; NaN where there is no peak."""
    seconds_per_step: float
    cells_per_s: float
    """All replicas together, validation not counted; so are the next two."""
    tokens_per_s: float
    """Real tokens."""
    mfu: float
    """Of real tokens; NaN where there is no peak."""
    hours: float
    """Of all steps, with validation; saving and starting are not counted."""
    device_hours: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is known of a run before it runs."""

    config: MainConfig
    target: Target
    workload: Workload
    parameters: int
    products: Products
    memory: Memory
    host_copy: int
    """Bytes of host memory, a device, that a save copies into."""
    most_tokens: int | None
    """Positions of the largest microbatch that fits; None where none does."""
    speeds: tuple[Speed, ...]
    """From slow to fast: two assumed ones, one measured one, or none where nothing is known."""

    @property
    def fits(self) -> bool:
        """Whether the run's own microbatch fits into a device."""
        return self.memory.total <= self.target.memory


def place_of(config: MainConfig, target: Target, *, vocabulary_size: int) -> Place:
    """The model as it lies over the target's devices."""
    trainer = config.trainer
    return Place(
        model=config.model,
        seq_length=config.data.tokenizer.seq_length,
        vocabulary_size=vocabulary_size,
        parallel=trainer.parallel,
        replicas=target.replicas,
        precision=target.precision,
        optimizer=trainer.optimizer,
        ema=trainer.ema is not None,
        gpu=target.gpu,
    )


def count_parameters(place: Place) -> int:
    """Trained numbers of the whole model, by formula; a tied matrix counts once."""
    alone = replace(place, parallel=place.parallel.replace(tensor=1, pipeline=1, interleave=1, sequence=False))
    return stage_parameters(alone, 0).all


def plan_memory(config: MainConfig, place: Place, workload: Workload) -> Memory:
    """Memory of the fullest device with the largest microbatch that the config allows."""
    share = target_share(config)
    shape = largest_shape(config.data, share=share, align=align_of(config))
    return memory_of(place, shape, microbatches=workload.microbatches)


def target_share(config: MainConfig) -> float:
    """Share of the tokens that is predicted."""
    return predicted_share(objective_of(config.model.task))


def most_tokens(config: MainConfig, target: Target, workload: Workload, *, allocator: int = 0) -> int | None:
    """Positions of the largest microbatch that fits; at most those of a replica's whole step. None: none fits.

    Args:
        config: of the run.
        target: its devices.
        workload: for the positions of a step.
        allocator: bytes that the host's allocator holds without use.
    """
    place = place_of(config, target, vocabulary_size=workload.vocabulary_size)
    align, longest, share = align_of(config), config.data.tokenizer.seq_length, target_share(config)
    least = -(-longest // align)
    step = max(sum(shape.tokens for shape in shapes) for shapes in workload.steps)
    most = max(least, -(-step // align))

    def fits(multiples: int) -> bool:
        shape = full_shape(multiples * align, longest=longest, share=share)
        memory = memory_of(place, shape, microbatches=workload.microbatches)
        return memory.total + allocator <= target.memory

    if not fits(least):
        return None
    while least < most:  # the largest that fits, by halving
        middle = -(-(least + most) // 2)
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least * align


def assumed_speeds(
    config: MainConfig, plan: Plan, shares: tuple[float, ...], *, n_validation: int | None
) -> list[Speed]:
    """Speeds if so much of the peak is reached; none where no peak is known.

    Args:
        config: of the run, its length in steps.
        plan: without speeds.
        shares: of the peak, rising.
        n_validation: cells held out, where that is known.
    """
    peak, parallel = plan.target.peak, config.trainer.parallel
    if math.isnan(peak):
        return []
    seconds = [
        seconds_at(plan.products, peak=peak, share=share, parallel=parallel, microbatches=plan.workload.microbatches)
        for share in shares
    ]
    return [_speed(config, plan, s, basis="assumed", n_validation=n_validation) for s in seconds]


def measured_speed(config: MainConfig, plan: Plan, rates: Rates, *, n_validation: int | None) -> Speed:
    """Speed by rates that were measured on this machine, one replica a process."""
    return _speed(config, plan, step_seconds(plan, rates), basis="measured", n_validation=n_validation)


def step_seconds(plan: Plan, rates: Rates) -> float:
    """Seconds of a mean step of the first replica, by measured rates."""
    size, model = plan.workload.vocabulary_size, plan.config.model
    seconds = [rates.seconds(model, step, vocabulary_size=size) for step in plan.workload.steps]
    return sum(seconds) / len(seconds)


def _speed(config: MainConfig, plan: Plan, seconds: float, *, basis: Basis, n_validation: int | None) -> Speed:
    target, products, ranks = plan.target, plan.products, config.trainer.parallel.model_ranks
    whole = seconds * config.trainer.steps * (1.0 + validation_share(config, n_validation=n_validation))
    return Speed(
        basis=basis,
        share=utilisation(products.computed / ranks, seconds=seconds, peak=target.peak),
        seconds_per_step=seconds,
        cells_per_s=config.data.global_batch_size / seconds,
        tokens_per_s=plan.workload.tokens_per_step / seconds,
        mfu=utilisation(products.real / ranks, seconds=seconds, peak=target.peak),
        hours=whole / 3600,
        device_hours=whole * target.devices / 3600,
    )


def make_plan(config: MainConfig, target: Target, workload: Workload) -> Plan:
    """Everything but the speed.

    Args:
        config: of the run, its length in steps.
        target: its devices.
        workload: steps that were looked at.
    """
    place = place_of(config, target, vocabulary_size=workload.vocabulary_size)
    return Plan(
        config=config,
        target=target,
        workload=workload,
        parameters=count_parameters(place),
        products=products_of(config.model, workload, parallel=config.trainer.parallel),
        memory=plan_memory(config, place, workload),
        host_copy=max(save_bytes(place, rank=rank) for rank in range(config.trainer.parallel.pipeline)),
        most_tokens=most_tokens(config, target, workload),
        speeds=(),
    )


def calibrated(plan: Plan, measured: Measured) -> Plan:
    """The plan with memory as measured: what the formulas leave unexplained is the allocator's.

    The peak of a probe's largest microbatch is set against what the formulas say for it; the difference is taken to
    be there for larger ones too. It can be negative, where libraries take less than is reckoned with.

    Args:
        plan: by formula.
        measured: on the machine that it is for.
    """
    place = place_of(plan.config, plan.target, vocabulary_size=plan.workload.vocabulary_size)
    seen = memory_of(place, measured.largest, microbatches=1, saving=False)
    unexplained = measured.peak - seen.total
    memory = replace(plan.memory, allocator=unexplained)
    most = most_tokens(plan.config, plan.target, plan.workload, allocator=unexplained)
    return replace(plan, memory=memory, most_tokens=most)
