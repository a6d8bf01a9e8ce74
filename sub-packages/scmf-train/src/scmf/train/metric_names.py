"""Names of metrics that people bring along. In: a name as other trainers write it. Out: ours."""

from __future__ import annotations

from typing import Final

from pydantic import BeforeValidator

ALIASES: Final = {
    "loss": "train/loss",
    "train_loss": "train/loss",
    "reduced_train_loss": "train/loss",
    "training_loss": "train/loss",
    "train_loss_ema": "train/loss_ema",
    "train_perplexity": "train/perplexity",
    "train_ppl": "train/perplexity",
    "grad_norm": "train/grad_norm",
    "lr": "train/lr",
    "learning_rate": "train/lr",
    "val_loss": "val/loss",
    "valid_loss": "val/loss",
    "validation_loss": "val/loss",
    "eval_loss": "val/loss",
    "val_perplexity": "val/perplexity",
    "val_ppl": "val/perplexity",
    "ema_loss": "val/ema_loss",
    "val_ema_loss": "val/ema_loss",
    "tokens_per_second": "speed/tokens_per_s",
    "samples_per_second": "speed/cells_per_s",
    "mfu": "speed/mfu",
}
"""Name elsewhere -> name here. Sources: NeMo and BioNeMo (`reduced_train_loss`, `val_loss`), Lightning (`train_loss`),
Hugging Face's Trainer (`loss`, `eval_loss`, `grad_norm`, `learning_rate`). docs/metrics.md has the same table."""


def canonical(name: object) -> object:
    """The name that metrics.jsonl has; anything that is no alias is returned as it is.

    Args:
        name: of a metric, as a config or a user's code says it.
    """
    return ALIASES.get(name, name) if isinstance(name, str) else name


MetricAlias: Final = BeforeValidator(canonical)
"""For `Annotated[..., MetricAlias]`: a config's field that names a metric takes the aliases too."""
