"""Loss over a whole split. In: a loaded model and its data. Out: nats, bits and perplexity over every target, each
counted once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from scmf.core.batch import StepBatch
from scmf.core.errors import ConfigError, StoreError
from scmf.data.progress import Progress
from scmf.data.step_stream import SplitName, StepStream
from scmf.eval.loaded import LoadedModel
from scmf.train.losses import perplexity
from scmf.train.objective import losses_of
from scmf.train.run import open_cells
from scmf.train.step import Passes

_CAUSES = ("store", "vocabulary", "tokenizer", "split", "corruption", "objective", "seed")
"""Of a stream's fingerprint, what decides which targets a split has and what the model sees of them."""


@dataclass(frozen=True, slots=True)
class SplitLoss:
    """What a model loses on a split. The numbers are over targets: tokens that it had to predict."""

    split: SplitName
    nats: float
    """Mean cross-entropy, natural logarithm, of a target."""
    bits: float
    """The same to base 2; for text bits per character."""
    perplexity: float
    """exp(nats); infinite where that overflows."""
    targets: int
    """Tokens predicted, each once."""
    tokens: int
    """Real tokens that went through the model."""
    cells: int
    """Cells, or windows of text."""
    noun: str
    """Which of them."""
    differences: tuple[str, ...] = ()
    """What of the data is not as it was in training; empty unless keys of the data section were changed."""

    def numbers(self) -> dict[str, Any]:
        """Plain values; a number that is not finite is null, which JSON has."""
        values = {**asdict(self), "differences": list(self.differences)}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def split_loss(loaded: LoadedModel, *, split: SplitName, changed: bool = False) -> SplitLoss:
    """Loss of every predicted token of a split, computed as the trainer computes its validation loss.

    Args:
        loaded: the model; of several objectives the one that predicts tokens is measured.
        split: train, validation or test.
        changed: keys of its data section were changed by the caller, so that other data are no surprise.

    Raises:
        ConfigError: the split has nothing in it.
        StoreError: the store is missing, damaged, or not the one that the model was trained on.
    """
    stream = open_cells(loaded.config, loaded.layout)
    differences = _differences(loaded, stream)
    if differences and not changed:
        raise _other_data(differences, loaded)
    total = stream.n_of(split)
    if total == 0:
        raise _empty(split, loaded)
    with Progress(f"perplexity of {split}", total, unit=f"{stream.noun}s") as progress:
        passes = Passes((loaded.model,), loaded.layout, losses_of(loaded.config.model.task))
        loss = passes.evaluate(_noted(prepared(stream, split), progress))
    nats = math.nan if loss.token_mean is None else loss.token_mean
    return SplitLoss(
        split=split,
        nats=nats,
        bits=nats / math.log(2),
        perplexity=perplexity(nats),
        targets=loss.targets,
        tokens=loss.tokens,
        cells=total,
        noun=stream.noun,
        differences=differences,
    )


def _noted(batches: Iterator[StepBatch], progress: Progress) -> Iterator[StepBatch]:
    """The batches, each noted when it has been used."""
    for batch in batches:
        yield batch
        progress.advance(batch.cells)


def prepared(stream: StepStream, split: SplitName) -> Iterator[StepBatch]:
    """The batches of a whole split, the next one prepared while one is used.

    Raises:
        StoreError: a cell cannot be read. (A run takes another for it; here it would be counted twice.)
    """
    with ThreadPoolExecutor(1, thread_name_prefix="scmf-data") as pool:
        ahead: Future[StepBatch | None] = pool.submit(stream.whole, split, 0)
        number = 0
        while (batch := ahead.result()) is not None:
            number += 1
            ahead = pool.submit(stream.whole, split, number)
            if batch.replaced:
                lost = batch.replaced[0]
                raise StoreError(
                    f"{stream.noun} {lost.cell_id:,} cannot be read ({lost.why})",
                    where=f"the {split} split of {_store(stream)}",
                    fix="scmf-store verify names what is damaged; restore the store from a copy",
                )
            yield batch


def _store(stream: StepStream) -> str:
    """The store of a stream, for a sentence."""
    return str(getattr(stream.config, "store", "the run"))


def _differences(loaded: LoadedModel, stream: StepStream) -> tuple[str, ...]:
    """What of the data is not as it was in training, by name."""
    here, there = stream.fingerprint, loaded.saved.progress.data
    return tuple(key for key in _CAUSES if here.get(key) != there.get(key))


def _other_data(differences: tuple[str, ...], loaded: LoadedModel) -> StoreError:
    names = ", ".join(differences)
    return StoreError(
        f"the data are not those of the training: {names} differ, so its held-out cells may be other ones",
        where=f"data section of {loaded.saved.folder / 'config.yaml'}",
        fix="restore the store that the run was trained on; to evaluate on other data, name it: data.store=PATH",
    )


def _empty(split: SplitName, loaded: LoadedModel) -> ConfigError:
    return ConfigError(
        f"the {split} split has nothing in it",
        where=f"data.split of {loaded.saved.folder / 'config.yaml'}",
        fix="name another: --split " + " or --split ".join(n for n in ("train", "validation", "test") if n != split),
    )
