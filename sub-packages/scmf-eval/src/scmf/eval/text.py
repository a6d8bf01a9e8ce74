"""Texts continued by a trained model. In: prompts as people write them. Out: what the model writes behind each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scmf.core.errors import ConfigError, VocabularyError
from scmf.data.characters import CharVocabulary
from scmf.data.config import HashSplitConfig
from scmf.eval.generate import Continued, EndedBy, Limits, NextToken, continue_texts
from scmf.eval.loaded import LoadedModel
from scmf.eval.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Written:
    """A prompt and what the model has written behind it."""

    number: int
    """Of the prompt, from 0."""
    prompt: str
    text: str
    """What follows the prompt, without the text that it was stopped by."""
    tokens: int
    """Generated, those of a stop text included."""
    ended_by: EndedBy


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How texts are written."""

    sampling: Sampling
    max_new_tokens: int = 200
    """Characters that follow a prompt at most, >= 1."""
    stops: tuple[str, ...] = ()
    """A text ends where one of these is generated, and does not contain it."""
    batch: int = 16
    """Texts in one forward pass, >= 1."""


class TextModel:
    """A causal model of characters that continues texts.

    Args:
        loaded: the model with its vocabulary.

    Raises:
        ConfigError: its tokens are no characters.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        if not isinstance(loaded.vocabulary, CharVocabulary):
            raise ConfigError(
                f"the tokens of vocabulary {loaded.vocabulary.name} are no characters, so there is no text to continue",
                where=str(loaded.saved.folder),
                fix="use a model whose data section has tokenizer: {kind: char}",
            )
        self._vocabulary = loaded.vocabulary
        self._seq_length = loaded.seq_length
        # In training <bos> stands before the first character of a text. Short texts are seen from there on; of a long
        # one nearly every window begins somewhere inside.
        self._texts_begin = isinstance(loaded.config.data.split, HashSplitConfig)
        self._model = NextToken(
            loaded.model,
            device=loaded.layout.world.device,
            seq_length=loaded.seq_length,
            # Special tokens are never predicted in training: their scores mean nothing.
            allowed=np.arange(len(self._vocabulary)) >= self._vocabulary.first,
        )

    def write(self, prompts: Sequence[str], settings: TextSettings) -> Iterator[Written]:
        """Continue prompts.

        Args:
            prompts: any number of texts; an empty one is the beginning of a text.
            settings: how.

        Yields:
            One for each prompt, in their order, each as soon as it and those before it have ended.

        Raises:
            VocabularyError: a prompt has a character that the model has never seen.
        """
        ids = [self._encode(prompt, number) for number, prompt in enumerate(prompts)]
        limits = Limits(settings.max_new_tokens, ends=lambda new: self._place_of_stop(new, settings.stops) is not None)
        ended: dict[int, Continued] = {}
        following = 0
        for text in continue_texts(self._model, ids, sampling=settings.sampling, limits=limits, batch=settings.batch):
            ended[text.number] = text
            while following in ended:
                yield self._written(prompts[following], ended.pop(following), settings.stops)
                following += 1

    def notes(self, prompts: Sequence[str]) -> list[str]:
        """What a person should know about their prompts."""
        long = [(number, len(prompt)) for number, prompt in enumerate(prompts, 1) if len(prompt) > self._seq_length]
        return [
            f"prompt {number} has {length:,} characters; the model sees the last {self._seq_length:,} of a text"
            for number, length in long
        ]

    def _encode(self, prompt: str, number: int) -> list[int]:
        try:
            ids: list[int] = self._vocabulary.encode(prompt).tolist()
        except VocabularyError as error:
            raise VocabularyError(error.what, where=f"prompt {number + 1}: {prompt[:60]!r}", fix=error.fix) from error
        return [self._vocabulary.bos, *ids] if self._texts_begin or not ids else ids

    def _written(self, prompt: str, text: Continued, stops: tuple[str, ...]) -> Written:
        ids = text.ids[: self._place_of_stop(text.ids, stops)] if text.ended_by == "stop" else text.ids
        return Written(text.number, prompt, self._vocabulary.decode(ids), len(text.ids), text.ended_by)

    def _place_of_stop(self, new: Sequence[int], stops: tuple[str, ...]) -> int | None:
        """Where the stop text that ends the new tokens begins; None where none does. (A token is a character.)"""
        longest = max(map(len, stops), default=0)
        end = self._vocabulary.decode(new[-longest:]) if longest else ""
        met = [len(stop) for stop in stops if end.endswith(stop)]
        return len(new) - max(met) if met else None
