"""Running average of the weights. In: an optimizer that updates. Out: averaged weights, for validation and later use.

The average is one more state of the optimizer: fp32 beside the fp32 originals, shared out over ranks as they are,
and in checkpoints under the same rules as Adam's moments, so that it reloads in another layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from scmf.model.megatron import MegatronOptimizer
from scmf.train.config import EmaConfig
from scmf.train.gradients import gather_parameters
from scmf.train.optimizer_state import AVERAGE, Share, initialise, shares
from scmf.train.tensors import local


class Average:
    """The running average of what this rank updates.

    Args:
        optimizer: gets one more state; its own is made if there is none yet.
        config: the decay.
    """

    def __init__(self, optimizer: MegatronOptimizer, config: EmaConfig) -> None:
        self._optimizer = optimizer
        self._config = config
        # First the optimizer's own: torch takes a parameter that has any state for one that has all.
        initialise(optimizer)
        self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """Begin with the present weights."""
        for share in shares(self._optimizer):
            share.inner.state[share.main][AVERAGE] = share.main.detach().clone()

    @torch.no_grad()
    def follow(self, *, step: int) -> None:
        """Take in the weights after an update.

        Args:
            step: from 0; of the update.
        """
        held = list(shares(self._optimizer))
        if held:
            kept = self.decay(step)
            torch._foreach_lerp_([_average(share) for share in held], [local(s.main) for s in held], 1.0 - kept)

    def decay(self, step: int) -> float:
        """Share of the average that a step keeps. Source of the warm-up: TensorFlow's ExponentialMovingAverage."""
        decay = self._config.decay
        return min(decay, (1 + step) / (10 + step)) if self._config.warmup else decay

    @contextmanager
    def in_place(self, models: Sequence[Any]) -> Iterator[None]:
        """Have the averages in the place of the model's weights inside the block; collective.

        Args:
            models: wrapped stages of this rank.
        """
        gather_parameters(models)
        places = [(_place(share), _average(share)) for share in shares(self._optimizer)]
        kept = [place.clone() for place, _ in places]
        try:
            self._put([average for _, average in places], places, models)
            yield
        finally:
            self._put(kept, places, models)

    @staticmethod
    @torch.no_grad()
    def _put(values: Sequence[Tensor], places: Sequence[tuple[Tensor, Tensor]], models: Sequence[Any]) -> None:
        for value, (place, _) in zip(values, places, strict=True):
            place.copy_(value.view(place.shape))
        gather_parameters(models)


def _average(share: Share) -> Tensor:
    return local(share.inner.state[share.main][AVERAGE])


def _place(share: Share) -> Tensor:
    """Where in the model's weights a share's values are."""
    whole = share.parameter.detach()
    return whole if share.first is None else whole.view(-1)[share.first : share.first + share.main.numel()]
