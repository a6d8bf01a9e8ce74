"""A user's own kinds of optimizer and schedule, found by their dotted paths."""

from __future__ import annotations

from typing import Any

import torch

from scmf.train.optimizer_config import OptimizerConfig
from scmf.train.schedule import ScheduleConfig


class RpropConfig(OptimizerConfig):
    """The sign of the gradient, with a step size for each number."""

    elementwise = True

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """PyTorch's."""
        return torch.optim.Rprop(groups, lr=self.lr)


class SawtoothConfig(ScheduleConfig):
    """Ten steps down, and again."""

    def after_warmup(self, step: int, *, peak: float, max_steps: int, reductions: int) -> float:
        """The rate."""
        del max_steps, reductions
        return peak * (1 - step % 10 / 10)
