"""The learning rate as a function of the step. Nothing to save, nothing to restore."""

from __future__ import annotations

import math

from scmf.train.config import ScheduleConfig


def learning_rate(config: ScheduleConfig, *, peak: float, step: int, max_steps: int) -> float:
    """Learning rate of one optimizer step.

    Args:
        config: kind, warm-up, hold and floor.
        peak: highest rate.
        step: from 0.
        max_steps: of the whole run.

    Source: NeMo's CosineAnnealing (warm-up, cosine, `constant_steps` at the floor); linear: BioNeMo's
    WarmupAnnealDecayHold.
    """
    if step < config.warmup_steps:
        return peak * (step + 1) / (config.warmup_steps + 1)
    if config.kind == "constant":
        return peak
    decay_steps = max_steps - config.hold_steps - config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, decay_steps))
    if config.kind == "linear":
        return peak + (config.min_lr - peak) * done
    return config.min_lr + 0.5 * (peak - config.min_lr) * (1.0 + math.cos(math.pi * done))
