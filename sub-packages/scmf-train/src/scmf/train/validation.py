"""Losses of held-out cells. In: an engine and the cells, under their names. Out: numbers for metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping

from scmf.core.batch import StepBatch
from scmf.core.errors import ConfigError
from scmf.data.held_out import open_held_out
from scmf.data.step_stream import StepStream
from scmf.data.stream import CellStream
from scmf.train.agreement import together
from scmf.train.config import TrainerConfig
from scmf.train.engine import Engine


class Validation:
    """Every set of held-out cells of a run.

    Args:
        config: of the run.
        engine: computes the losses.
        stream: has the cells of `val/loss`.
        named: more cells, by name; each a stream whose validation cells they are.
    """

    def __init__(
        self, config: TrainerConfig, *, engine: Engine, stream: StepStream, named: Mapping[str, StepStream]
    ) -> None:
        self._config = config
        self._engine = engine
        self._stream = stream
        self.named = named

    def losses(self) -> dict[str, float]:
        """Losses of the same cells with the same masks every time, without dropout; collective."""
        held_out = self._batches(self._stream)
        found: dict[str, float] = {}
        if held_out:
            found |= self._engine.evaluate(held_out).numbers("val")
            ema = self._config.ema
            if ema is not None and ema.validation:
                found["val/ema_loss"] = self._engine.evaluate_average(held_out).mean
        for name, stream in self.named.items():
            found |= self._engine.evaluate(self._batches(stream)).numbers(f"val/{name}")
        return found

    def _batches(self, stream: StepStream) -> list[StepBatch]:
        """All batches, once every rank has its own: one without data would leave the others waiting for it."""
        batches = together(lambda: [stream.validation(i) for i in range(self._config.validation.batches)])
        return [batch for batch in batches if batch is not None]


def open_named(config: TrainerConfig, stream: StepStream) -> dict[str, StepStream]:
    """The cells of every entry of `trainer.validate.splits`.

    Args:
        config: of the run.
        stream: of the run.

    Raises:
        StoreError: no such store or split.
        VocabularyError: the vocabulary knows no gene of a store.
        ConfigError: no cells, cells that the run trains on, data that has no named splits.
    """
    found: dict[str, StepStream] = {}
    for number, split in enumerate(config.validation.splits):
        key = f"trainer.validate.splits[{number}]"
        if not isinstance(stream, CellStream):
            raise ConfigError(
                f"data.kind={stream.config.kind} has no named splits",
                where=key,
                fix="write trainer.validate.splits: []; only cells can be validated on under several names",
            )
        found[split.name] = open_held_out(
            stream, name=split.name, store=split.store, split=split.split, part=split.part, key=key
        )
    return found
