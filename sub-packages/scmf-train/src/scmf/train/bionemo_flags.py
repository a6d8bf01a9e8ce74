"""Flags of BioNeMo's commands: a flag that somebody gives by habit goes in; what says the same here comes out.

Source: NVIDIA/bionemo-framework, `train_geneformer` and `bionemo-geneformer-train`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from scmf.core.command import Parser
from scmf.core.errors import ConfigError

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


class TrainingParser(Parser):
    """The parser of a command that people who come from BioNeMo give its flags to."""

    def explain_foreign(self, parser: Parser) -> None:
        """Name what stands for each flag of BioNeMo's, with the same command in our words.

        Raises:
            ConfigError: where one was given that this command does not have.
        """
        given = [word.partition("=")[0] for word in parser.words or ()]
        known = {*FLAGS, *WITHOUT_ONE_WORD} - {*parser.options()}
        found = [flag for flag in dict.fromkeys(given) if flag in known]
        if not found:
            return
        meanings = [f"{flag} is {_template(flag)}" for flag in found]
        raise ConfigError(
            f"{found[0]} is a flag of BioNeMo's; here {'; '.join(meanings)}",
            where="command line",
            fix=shlex.join([*self.prog.split(), *_translated(parser.words or (), known)]),
        )


def _template(flag: str) -> str:
    if flag in FLAGS:
        return FLAGS[flag].format("...")
    return WITHOUT_ONE_WORD[flag]


def _translated(words: Sequence[str], foreign: set[str]) -> Iterator[str]:
    """The words of a command with those of BioNeMo in ours; those without a single word are left out."""
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
        said = said_here(flag, values[0] if values else None)
        if said is not None:
            yield said
