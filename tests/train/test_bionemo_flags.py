"""Flags of BioNeMo's commands given by habit: each is answered with the key that stands for it."""

from __future__ import annotations

import shlex

import pytest

from scmf.core.errors import ConfigError
from scmf.train.bionemo_flags import FLAGS, WITHOUT_ONE_WORD, key_of, said_here
from scmf.train.cli_plan import plan_command
from scmf.train.cli_recipe import recipe_command
from scmf.train.cli_train import train_command
from scmf.train.recipe import RecipeArguments
from scmf.train.recipes import find_recipe

VALUES = {
    "--data-dir": "cells",
    "--experiment-name": "a",
    "--precision": "bf16-mixed",
    "--lr": "1e-3",
    "--wandb-project": "p",
}
VALUES |= {"--num-gpus": "2", "--save-top-k": "7", "--restore-from-checkpoint-path": "ckpt", "--seq-length": "64"}


@pytest.mark.parametrize("flag", FLAGS)
def test_what_stands_for_a_flag_is_a_key_that_takes_its_value(flag):
    word = said_here(flag, VALUES.get(flag, "3"))
    config = find_recipe("test").config(RecipeArguments(overrides=(word,)))
    assert config != find_recipe("test").config(), word


@pytest.mark.parametrize("command", [recipe_command, train_command])
@pytest.mark.parametrize("flag", [*FLAGS, *WITHOUT_ONE_WORD])
def test_a_flag_given_by_habit_is_refused_with_what_stands_for_it(command, flag):
    with pytest.raises(ConfigError) as error:
        command(["--config", "cfg.yaml", flag, "2"])
    assert error.value.what.startswith(f"{flag} is a flag of BioNeMo's; here {flag} is ")


def test_the_way_out_is_the_same_command_in_our_words():
    given = "--config cfg.yaml --num-steps 10 --lr=1e-3 --micro-batch-size 8 --wandb-tags a b --precision 16-mixed"
    with pytest.raises(ConfigError) as error:
        train_command([*given.split(), "--nsys-profiling", "trainer.seed=1"])
    ours = [
        "trainer.max_steps=10",
        "trainer.optimizer.lr=1e-3",
        "trainer.precision=fp16",
        "trainer.profile={tool: nsys}",
    ]
    assert shlex.split(error.value.fix) == ["scmf-train", "--config", "cfg.yaml", *ours, "trainer.seed=1"]


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("--result-dir results/a", "trainer.result_dir=results/a"),
        ("--data-path 'my cells'", "'data.store=my cells'"),
        ("--max_steps=100", "trainer.max_steps=100"),
        ("--learning-rate 3e-4 --epochs 2", "trainer.optimizer.lr=3e-4 trainer.max_epochs=2"),
        ("--batch-size 8 trainer.seed=1", "data.global_batch_size=8 trainer.seed=1"),
        ("--fsdp --seed 7", "trainer.parallel.fsdp=true trainer.seed=7"),
        ("--num-steps 10 --hidden 64", "trainer.max_steps=10 model.hidden=64"),
    ],
)
@pytest.mark.parametrize(("name", "command"), [("scmf-train", train_command), ("scmf-plan", plan_command)])
def test_a_key_given_as_a_flag_is_answered_with_the_word_that_sets_it(name, command, given, ours):
    with pytest.raises(ConfigError) as error:
        command(["--config", "cfg.yaml", *shlex.split(given)])
    assert error.value.fix == f"{name} --config cfg.yaml {ours}"
    assert "is no flag here" in error.value.what or "BioNeMo" in error.value.what


def test_a_flag_that_names_no_key_or_several_is_no_key():
    assert [key_of(flag) for flag in ("--every", "--kind", "--zzz")] == [None] * 3
    assert key_of("--warmup") == "trainer.schedule.warmup_steps"  # and not that of a section that is not there


def test_flags_that_both_programs_have_are_no_habit(tmp_path):
    with pytest.raises(ConfigError, match="there is no such configuration"):
        train_command(["--config", str(tmp_path / "cfg.yaml"), "--resume-if-exists"])
    assert not {*FLAGS, *WITHOUT_ONE_WORD} & {
        "--result-dir",
        "--resume-if-exists",
        "--initial-ckpt-path",
        "--data-path",
    }
