"""A plan for people and for programs. In: a Plan. Out: lines, or plain values for JSON."""

from __future__ import annotations

import math
from typing import Any

from scmf.core.text import counted
from scmf.train.plan.advice import microbatch_word
from scmf.train.plan.estimate import Plan, Speed, step_seconds
from scmf.train.plan.memory import Memory
from scmf.train.plan.probe_result import Measured
from scmf.train.plan.workload import Workload, quantiles

LAUNCH_SECONDS = 5e-4
"""Assumed, not measured: time in which a host starts the about 100 kernels of one layer, forward and backward."""


def plan_lines(plan: Plan, measured: Measured | None = None) -> list[str]:
    """What `scmf-plan` prints."""
    return [
        *work_lines(plan.workload),
        *model_lines(plan),
        *batch_lines(plan),
        *memory_lines(plan),
        *_measured_lines(measured),
        *speed_lines(plan),
    ]


def work_lines(workload: Workload) -> list[str]:
    """Where the lengths come from, and what they are."""
    lengths = workload.lengths
    low, middle, high = quantiles(lengths)
    noun = workload.noun if workload.pieces <= 1.0 else "piece"  # of windows that go over the ends of texts
    return [
        (
            f"data   {counted(len(lengths), noun)} of {workload.source}: {lengths.mean():,.0f} tokens each on "
            f"average (5% up to {low:,}, half up to {middle:,}, 95% up to {high:,})"
        )
    ]


def model_lines(plan: Plan) -> list[str]:
    """Size and work."""
    return [f"model  {plan.parameters:,} parameters, {plan.target.precision}; {work_of(plan)}"]


def work_of(plan: Plan) -> str:
    """FLOPs of a cell."""
    a_cell = f"{flops(plan.products.real_per_cell)} a {plan.workload.noun}"
    return f"{a_cell}, forward and backward, of real tokens and targets"


def batch_lines(plan: Plan) -> list[str]:
    """How a step is divided."""
    workload, target = plan.workload, plan.target
    batch = plan.config.data.global_batch_size
    positions = max(shape.positions for shape in workload.shapes)
    devices = (
        f"{counted(target.devices, 'device')} of {target.title}" if target.gpu else counted(target.devices, "rank")
    )
    return [
        (
            f"batch  {counted(batch, workload.noun)} a step ({workload.tokens_per_step:,.0f} tokens) on "
            f"{counted(target.replicas, 'replica')}, {devices}; each takes {workload.microbatches:.1f} microbatches of "
            f"at most {positions:,} positions, {workload.fill:.0%} filled"
        )
    ]


def memory_lines(plan: Plan) -> list[str]:
    """Memory by part, and what would fit."""
    memory, target = plan.memory, plan.target
    lines = [
        (
            f"memory {memory.total / 1e9:.2f} GB of {target.memory / 1e9:.0f} GB a device with the largest microbatch: "
            f"{parts_of(memory)}"
        )
    ]
    if plan.most_tokens is not None:
        word = microbatch_word(plan.config, plan.most_tokens, replicas=target.replicas)
        lines.append(f"fits   {word} is the largest microbatch that fits, or all that a step has")
    if target.gpu:
        lines.append(f"host   a save copies {plan.host_copy / 1e9:.2f} GB a device into the host's memory")
    return lines


def parts_of(memory: Memory) -> str:
    """Every part that is there, the largest first."""
    parts = sorted(memory.parts().items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts if size)


def _measured_lines(measured: Measured | None) -> list[str]:
    if measured is None:
        return []
    return [
        (
            f"probe  {counted(measured.rounds, 'round')} of small microbatches in {measured.seconds:.0f} s; peak "
            f"{measured.peak / 1e9:.2f} GB with {measured.largest.positions:,} positions"
        )
    ]


def speed_lines(plan: Plan) -> list[str]:
    """How long it takes, under each supposition."""
    if not plan.speeds:
        return ["speed  not known: the peak of this device is in no table; --probe measures it"]
    return [_speed_line(plan, speed) for speed in plan.speeds] + _short_kernels(plan)


def _short_kernels(plan: Plan) -> list[str]:
    """A warning where the assumed share of the peak is out of reach, because kernels are over as soon as they start."""
    fastest = plan.speeds[-1]
    microbatches = max(1.0, plan.workload.microbatches)
    layer = fastest.seconds_per_step / microbatches / plan.config.model.layers
    if fastest.basis == "measured" or layer >= LAUNCH_SECONDS:
        return []
    return [
        (
            f"note   a layer of a microbatch would take {seconds(layer)}, and starting its kernels about "
            f"{seconds(LAUNCH_SECONDS)} (assumed): such small work does not come near these speeds; only a probe there "
            "tells"
        )
    ]


def _speed_line(plan: Plan, speed: Speed) -> str:
    noun, steps = plan.workload.noun, plan.config.trainer.steps
    of_peak = "" if math.isnan(speed.mfu) else f" (MFU {speed.mfu:.0%})"
    basis = f"if {speed.share:.0%} of the peak is reached (assumed)" if speed.basis == "assumed" else "measured"
    hours = f"{speed.hours:,.2f} h" if speed.hours < 100 else f"{speed.hours:,.0f} h"
    return (
        f"speed  {basis}{of_peak}: {seconds(speed.seconds_per_step)} a step, {speed.cells_per_s:,.1f} {noun}s/s, "
        f"{speed.tokens_per_s:,.0f} tokens/s; {counted(steps, 'step')} take {hours}, "
        f"{speed.device_hours:,.2f} {_unit(plan)}-hours"
    )


def _unit(plan: Plan) -> str:
    return "GPU" if plan.target.gpu else "rank"


def flops(number: float) -> str:
    """FLOPs with a prefix."""
    for size, unit in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} FLOP"


def seconds(number: float) -> str:
    """Seconds, milliseconds or microseconds, to three digits."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number * 1e6:.3g} us"


def plan_values(plan: Plan, measured: Measured | None = None) -> dict[str, Any]:
    """The same for programs: plain values in bytes, seconds, FLOPs; null where nothing is known."""
    workload, target, low_middle_high = plan.workload, plan.target, quantiles(plan.workload.lengths)
    return {
        "hardware": {
            "title": target.title,
            "memory_bytes": target.memory,
            "peak_flops": _finite(target.peak),
            "precision": target.precision,
            "devices": target.devices,
            "replicas": target.replicas,
        },
        "lengths": {
            "source": workload.source,
            "cells": len(workload.lengths),
            "mean": float(workload.lengths.mean()),
            "quantiles_5_50_95": list(low_middle_high),
        },
        "parameters": plan.parameters,
        "flops_per_cell": plan.products.real_per_cell,
        "flops_per_step_and_replica": {"real": plan.products.real, "computed": plan.products.computed},
        "batch": {
            "cells": plan.config.data.global_batch_size,
            "tokens": workload.tokens_per_step,
            "microbatches": workload.microbatches,
            "positions": max(shape.positions for shape in workload.shapes),
            "fill": workload.fill,
        },
        "memory_bytes": {**plan.memory.parts(), "total": plan.memory.total, "fits": plan.fits},
        "save_bytes": plan.host_copy,
        "largest_microbatch_tokens": plan.most_tokens,
        "speeds": [{name: _finite(getattr(speed, name)) for name in Speed.__slots__} for speed in plan.speeds],
        "probe": None
        if measured is None
        else {**measured.values(), "processor_seconds_per_step": _busy(plan, measured)},
    }


def _busy(plan: Plan, measured: Measured) -> float:
    """Seconds of processors that a mean step takes, over all cores."""
    return step_seconds(plan, measured.processor)


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
