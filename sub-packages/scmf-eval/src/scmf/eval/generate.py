"""Texts continued token by token. In: a causal model and prompts as token ids. Out: what follows each of them.

Texts of a batch share a forward pass and nothing else: each is a segment of one pack, its random numbers depend on
its own number and position, and a text that has ended makes room for the next prompt.
Shapes: B texts at work, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from scmf.core.batch import Microbatch
from scmf.core.errors import CheckpointError
from scmf.eval.sampling import FloatArray, Sampling
from scmf.model.pack import Pack

IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
EndedBy = Literal["length", "stop"]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a text ends."""

    max_new_tokens: int
    """At most so many tokens follow the prompt, >= 1."""
    ends: Callable[[Sequence[int]], bool] = field(default=lambda _: False)
    """Whether the tokens that follow the prompt end here; asked after every token."""


@dataclass(frozen=True, slots=True)
class Continued:
    """What follows one prompt."""

    number: int
    """Of the prompt, from 0."""
    ids: tuple[int, ...]
    """Tokens that follow the prompt."""
    ended_by: EndedBy


@dataclass(slots=True)
class _Text:
    number: int
    ids: list[int]
    prompt_length: int

    @property
    def new(self) -> list[int]:
        return self.ids[self.prompt_length :]


class NextToken:
    """Scores of the next token of texts, by a whole forward pass over the end of each.

    Args:
        model: causal, whole and in evaluation mode: scmf.model.transformer.Transformer.
        device: that it is on.
        seq_length: positions that it has; of a longer text it sees so many last tokens.
        allowed: (V,) tokens that may be chosen.
    """

    def __init__(self, model: Any, *, device: torch.device, seq_length: int, allowed: BoolArray) -> None:
        self._model = model
        self._device = device
        self._seq_length = seq_length
        self._allowed = allowed

    @torch.no_grad()
    def scores(self, texts: Sequence[Sequence[int]]) -> FloatArray:
        """Scores of every token behind each text.

        Args:
            texts: B times at least one token id.

        Returns:
            (B, V) float64; -inf where a token may not be chosen.

        Raises:
            CheckpointError: a score is no number: the weights are spoilt.
        """
        windows = [np.array(text[-self._seq_length :], np.int32) for text in texts]
        pack = Pack.of(lay_texts(windows), self._device)
        last = torch.tensor(np.cumsum([len(window) for window in windows]) - 1, device=self._device)
        logits: FloatArray = self._model.logits(pack, last).double().cpu().numpy()
        if np.isnan(logits).any():
            raise CheckpointError(
                "the model's scores are not numbers: its weights are spoilt",
                where="the weights of the checkpoint",
                fix="use an earlier checkpoint (--weights STEP), and look at train/loss of the run in metrics.jsonl",
            )
        return np.where(self._allowed, logits, -np.inf)


def lay_texts(windows: Sequence[IntArray]) -> Microbatch:
    """Texts end to end, each from position 0, nothing to predict.

    Args:
        windows: B times (length,) int32 token ids, each at least one.
    """
    lengths = [len(window) for window in windows]
    return Microbatch(
        input_ids=np.concatenate(windows),
        positions=np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        cu_seqlens=np.cumsum([0, *lengths], dtype=np.int32),
        target_positions=np.zeros(0, np.int32),
        targets=np.zeros(0, np.int32),
        cell_ids=np.arange(len(windows), dtype=np.int64),
        tokens=sum(lengths),
        longest=max(lengths),
    )


def continue_texts(
    model: NextToken, prompts: Sequence[Sequence[int]], *, sampling: Sampling, limits: Limits, batch: int
) -> Iterator[Continued]:
    """Continue prompts, at most `batch` of them at a time.

    Args:
        model: gives the scores.
        prompts: token ids, each at least one.
        sampling: how a token is chosen.
        limits: when a text ends.
        batch: texts in one forward pass, >= 1.

    Yields:
        What follows each prompt, in the order in which they end.
    """
    waiting = deque(_Text(number, list(ids), len(ids)) for number, ids in enumerate(prompts))
    working: list[_Text] = []
    while waiting or working:
        while waiting and len(working) < batch:
            working.append(waiting.popleft())
        for text, scores in zip(working, model.scores([text.ids for text in working]), strict=True):
            text.ids.append(sampling.choose(scores, text=text.number, position=len(text.ids)))
        ended = [(text, how) for text in working if (how := _ended(text, limits)) is not None]
        yield from (Continued(text.number, tuple(text.new), how) for text, how in ended)
        working = [text for text in working if all(text is not other for other, _ in ended)]


def _ended(text: _Text, limits: Limits) -> EndedBy | None:
    new = text.new
    if limits.ends(new):
        return "stop"
    return "length" if len(new) >= limits.max_new_tokens else None
