"""The next token. In: scores of every token, and where in which text it will stand. Out: one token id.

The random number of a token is a function of (seed, number of the text, position in it): neither what else is
generated at the same time nor where a run was stopped before can change it. Shape: V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scmf.core.errors import ConfigError
from scmf.core.random import stream

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen from its probabilities.

    Temperature comes first, then top-k, then top-p over what top-k has left.
    Source of top-p: Holtzman et al., 2020, nucleus sampling.
    """

    temperature: float = 1.0
    """Scores are divided by it: below 1 likely tokens become likelier; 0 always takes the likeliest."""
    top_k: int | None = None
    """Keep the k likeliest tokens; equal ones by the lower id. None keeps all."""
    top_p: float | None = None
    """Keep the fewest likeliest tokens whose probabilities sum to at least p. None keeps all."""
    seed: int = 42
    """Of the random numbers, >= 0."""

    def __post_init__(self) -> None:
        rules = (
            ("temperature", self.temperature, 0.0 <= self.temperature < np.inf, "a number of 0 or more, such as 0.8"),
            ("top-k", self.top_k, self.top_k is None or self.top_k >= 1, "1 or more, or leave it out for all tokens"),
            ("top-p", self.top_p, self.top_p is None or 0.0 < self.top_p <= 1.0, "above 0 and at most 1, such as 0.9"),
            ("seed", self.seed, self.seed >= 0, "0 or more"),
        )
        for name, value, good, wanted in rules:
            if not good:
                raise ConfigError(f"--{name} is {value}", where="command line", fix=f"--{name} {wanted}")

    def choose(self, logits: FloatArray, *, text: int, position: int) -> int:
        """The next token of one text.

        Args:
            logits: (V,) scores; -inf for tokens that are never chosen.
            text: number of the text, from 0.
            position: of the token in its text, from 0 at the prompt's beginning.
        """
        if self.temperature == 0.0:
            return int(np.argmax(logits))
        cumulated = np.cumsum(self.probabilities(logits))
        uniform = stream(self.seed, "generate", text, position).random()
        # The sum is 1 but for rounding; `right` never takes a token of probability 0.
        return int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right"))

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """Probability of every token after temperature, top-k and top-p, summing to 1.

        Args:
            logits: (V,) scores, at least one of them finite; the temperature is above 0.

        Returns:
            (V,) float64.
        """
        scores = logits.astype(np.float64)
        with np.errstate(over="ignore"):  # a temperature near 0 leaves the likeliest alone
            scores = (scores - scores.max()) / self.temperature
        if self.top_k is not None:
            scores[_falling(scores)[self.top_k :]] = -np.inf
        weights: FloatArray = np.exp(scores)
        weights /= weights.sum()
        if self.top_p is not None:
            order = _falling(weights)
            # As many as are needed to reach p: those before which less than p has been summed.
            before = np.cumsum(weights[order]) - weights[order]
            weights[order[before >= self.top_p]] = 0.0
            weights /= weights.sum()
        return weights


def _falling(values: FloatArray) -> npt.NDArray[np.intp]:
    """Places of the values from the largest on; of equal ones the lower place first."""
    return np.argsort(-values, kind="stable")
