"""Flags that somebody gives by habit: BioNeMo's, or a key of the configuration; what says the same here comes out.

Source: NVIDIA/bionemo-framework, `train_geneformer` and `bionemo-geneformer-train`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from scmf.core.command import Parser
from scmf.core.config_keys import key_below
from scmf.core.errors import ConfigError
from scmf.train.config import MainConfig

FLAGS: Final[dict[str, str]] = {
    "--data-dir": "data.store={}",
    "--experiment-name": "trainer.result_dir=results/{}",
    "--num-gpus": "trainer.devices={}",
    "--num-nodes": "trainer.nodes={}",
    "--num-steps": "trainer.max_steps={}",
    "--val-check-interval": "trainer.validate.every={}",
    "--limit-val-batches": "trainer.validate.batches={}",
    "--num-dataset-workers": "data.workers={}",
    "--seq-length": "data.tokenizer.seq_length={}",
    "--lr": "trainer.optimizer.lr={}",
    "--precision": "trainer.precision={}",
    "--restore-from-checkpoint-path": "model.init_from={}",
    "--save-top-k": "trainer.checkpoint.keep_best={}",
    "--log-every-n-steps": "trainer.log.every={}",
    "--create-tensorboard-logger": "trainer.log.tensorboard=true",
    "--wandb-project": "trainer.log.wandb={{project: {}}}",
    "--nsys-profiling": "trainer.profile={{tool: nsys}}",
}
"""The word that says the same, with a place for the flag's value."""

WITHOUT_ONE_WORD: Final[dict[str, str]] = {
    "--micro-batch-size": "data.global_batch_size, which is micro batch x accumulation x data-parallel ranks",
    "--accumulate-grad-batches": "data.global_batch_size, which is micro batch x accumulation x data-parallel ranks",
    "--cosine-rampup-frac": "trainer.schedule.warmup_steps, in steps",
    "--cosine-hold-frac": "trainer.schedule.hold_steps, in steps",
    "--metric-to-monitor-for-checkpoints": "trainer.checkpoint.metric, such as val/loss",
    "--save-last-checkpoint": "trainer.checkpoint.keep_last, which is at least 1",
    "--training-model-config-class": "model.kind and model.task.kind",
    "--wandb-entity": "trainer.log.wandb: {project: ..., entity: ...}",
    "--wandb-group": "trainer.log.wandb: {project: ..., group: ...}",
    "--wandb-tags": "trainer.log.wandb: {project: ..., tags: [...]}",
    "--wandb-offline": "trainer.log.wandb: {project: ..., mode: offline}, the default",
    "--nsys-start-step": "trainer.profile: {tool: nsys, start: ...}",
    "--nsys-end-step": "trainer.profile: {tool: nsys, start: ..., steps: ...}",
    "--nsys-ranks": "trainer.profile: {tool: nsys, ranks: [...]}",
    "--disable-checkpointing": "nothing: a run keeps its last checkpoint",
    "--biobert-spec-option": "nothing: the layers follow from the device",
    "--nemo1-init-path": "nothing: NeMo's checkpoints cannot be read yet",
    "--gc-interval": "nothing",
    "--aligned-megatron-ddp": "nothing",
    "--recompilation-check": "nothing",
}
"""What stands for it where no single word does."""

_PRECISIONS: Final = {"bf16-mixed": "bf16", "16-mixed": "fp16", "32": "fp32"}


def said_here(flag: str, value: str | None) -> str | None:
    """The word of these commands that says what a flag of BioNeMo says; None where no single word does.

    Args:
        flag: with its dashes.
        value: that was given to it; None where none was.
    """
    template = FLAGS.get(flag)
    if template is None or (value is None and "{}" in template.replace("{{", "")):
        return None
    if flag == "--precision":
        value = _PRECISIONS.get(value or "", value)
    return template.format(value)


def key_of(flag: str) -> str | None:
    """The key that a flag names, `--max-steps` or `--lr`; None where no key has the name, or several have it."""
    return key_below(MainConfig, flag.lstrip("-"))


def set_by_word(flag: str, value: str | None) -> str | None:
    """The word that sets the key which a flag names; None where it names none.

    Args:
        flag: with its dashes.
        value: that was given to it; None where none was, which is taken for `true`.
    """
    key = key_of(flag)
    return None if key is None else f"{key}={'true' if value is None else value}"


class TrainingParser(Parser):
    """The parser of a command that takes `a.b=value` words, and that flags are given to in their place."""

    def explain_foreign(self, parser: Parser) -> None:
        """Name what stands for each flag of BioNeMo's or of a key, with the same command in our words.

        Raises:
            ConfigError: where one was given that this command does not have.
        """
        given = [word.partition("=")[0] for word in parser.words or () if word.startswith("--")]
        unknown = [flag for flag in dict.fromkeys(given) if flag not in parser.options()]
        theirs = [flag for flag in unknown if flag in FLAGS or flag in WITHOUT_ONE_WORD]
        keys = [flag for flag in unknown if flag not in theirs and key_of(flag) is not None]
        if theirs:
            meanings = [f"{flag} is {_template(flag)}" for flag in theirs]
            what = f"{theirs[0]} is a flag of BioNeMo's; here {'; '.join(meanings)}"
        elif keys:
            what = (
                f"{keys[0]} is no flag here: keys of the configuration are set by words such as {key_of(keys[0])}=..."
            )
        else:
            return

        def said(flag: str, value: str | None) -> str | None:
            return said_here(flag, value) if flag in theirs else set_by_word(flag, value)

        words = _translated(parser.words or (), {*theirs, *keys}, said)
        raise ConfigError(what, where="command line", fix=shlex.join([*self.prog.split(), *words]))


def _template(flag: str) -> str:
    if flag in FLAGS:
        return FLAGS[flag].format("...")
    return WITHOUT_ONE_WORD[flag]


def _translated(
    words: Sequence[str], foreign: set[str], said: Callable[[str, str | None], str | None]
) -> Iterator[str]:
    """The words of a command with foreign flags in ours; those without a single word are left out."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag not in foreign:
            yield word
            continue
        values = [value] if equals else []
        while rest and not rest[0].startswith("--") and "=" not in rest[0]:
            values.append(rest.pop(0))  # some flags take several
        ours = said(flag, values[0] if values else None)
        if ours is not None:
            yield ours
