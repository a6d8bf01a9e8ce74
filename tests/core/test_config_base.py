"""The base of every config: strict, closed, frozen, and clear about what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveInt, field_validator

from scmf.core.config import Config
from scmf.core.config_fault import Fault
from scmf.core.errors import ConfigError
from scmf.core.near_word import nearest


class Optimizer(Config):
    """An optimizer."""

    lr: Annotated[float, Field(gt=0.0)]
    """Peak learning rate."""
    steps: PositiveInt = 10
    """Steps."""
    fused: bool = False
    """Fuse."""
    name: str = "adam"
    """Name."""
    mode: Literal["fast", "exact"] = "fast"
    """Mode."""
    devices: PositiveInt | Literal["auto"] = "auto"
    """Ranks."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decays."""
    note: str | None = None
    """Note."""

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.steps > 1000 and self.lr > 1.0:
            yield Fault("lr", f"run.optimizer.lr={self.lr} for {self.steps} steps diverges", "use 1 or less")


class Run(Config):
    """A run."""

    optimizer: Optimizer
    """How."""
    check: Annotated[int, Field(ge=0)] = Field(default=0, alias="validate")
    """A key that is no attribute name."""


def parse(**optimizer: object) -> Run:
    return Run.parse({"optimizer": {"lr": 0.1, **optimizer}}, source="cfg.yaml")


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        pytest.param("lr", "0.1", 'optimizer.lr must be a number, not "0.1" (text)', id="text for a number"),
        pytest.param("lr", None, "optimizer.lr must be a number, not null", id="null"),
        pytest.param("lr", -1.0, "optimizer.lr must be greater than 0.0, not -1.0", id="negative"),
        pytest.param("lr", float("nan"), "optimizer.lr must be a finite number, not nan", id="nan"),
        pytest.param("lr", float("inf"), "optimizer.lr must be a finite number, not inf", id="inf"),
        pytest.param("lr", True, "optimizer.lr must be a number, not true", id="bool for a float"),
        pytest.param("lr", [1.0], "optimizer.lr must be a number, not a list of 1", id="list for a number"),
        pytest.param("lr", {"a": 1}, "optimizer.lr must be a number, not a section of keys", id="section for a number"),
        pytest.param("steps", True, "optimizer.steps must be a whole number, not true", id="bool for an int"),
        pytest.param("steps", 1.5, "optimizer.steps must be a whole number, not 1.5", id="fraction for an int"),
        pytest.param("steps", 100.0, "optimizer.steps must be a whole number, not 100.0", id="float for an int"),
        pytest.param("steps", 0, "optimizer.steps must be greater than 0, not 0", id="zero"),
        pytest.param("fused", "yes", 'optimizer.fused must be true or false, not "yes" (text)', id="yes for a bool"),
        pytest.param("fused", 1, "optimizer.fused must be true or false, not 1", id="1 for a bool"),
        pytest.param("name", 3, "optimizer.name must be text, not 3", id="number for text"),
        pytest.param("mode", "exat", "optimizer.mode must be 'fast' or 'exact', not \"exat\" (text)", id="choice"),
        pytest.param("devices", -2, "optimizer.devices must be greater than 0 or must be 'auto', not -2", id="union"),
        pytest.param("betas", [0.9], "optimizer.betas.1 is missing", id="short tuple"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_itself(key, value, what):
    with pytest.raises(ConfigError) as error:
        parse(**{key: value})
    assert error.value.what == what
    assert error.value.where.startswith("cfg.yaml, optimizer." + key)
    assert error.value.fix


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [
        pytest.param("lr", "0.1", "write 0.1 without quotes", id="quoted number"),
        pytest.param("steps", 100.0, "write 100", id="whole float"),
        pytest.param("mode", "exat", "did you mean exact?", id="misspelt choice"),
        pytest.param("name", 3, 'put it in quotes: "3"', id="unquoted text"),
        pytest.param("steps", 0, "correct the value (Steps.)", id="out of bounds"),
    ],
)
def test_the_way_out_follows_from_the_value(key, value, fix):
    with pytest.raises(ConfigError) as error:
        parse(**{key: value})
    assert error.value.fix == fix


def test_an_unknown_key_names_the_nearest_and_all_keys():
    with pytest.raises(ConfigError) as error:
        parse(stepz=3)
    assert error.value.what == "optimizer.stepz is not a key of optimizer"
    assert error.value.fix.startswith("did you mean `steps`? The keys there: lr, steps,")


def test_an_aliased_key_has_one_spelling():
    assert Run.parse({"optimizer": {"lr": 1}, "validate": 3}, source="f").check == 3
    with pytest.raises(ConfigError, match=r"check is not a key of the document"):
        Run.parse({"optimizer": {"lr": 1}, "check": 3}, source="f")
    with pytest.raises(ConfigError, match=r"validate must be at least 0, not -1"):
        Run.parse({"optimizer": {"lr": 1}, "validate": -1}, source="f")


def test_a_missing_key_says_what_it_is_for():
    with pytest.raises(ConfigError) as error:
        Run.parse({"optimizer": {}}, source="f")
    assert error.value.what == "optimizer.lr is missing"
    assert error.value.fix == "add `lr:` (Peak learning rate.)"


def test_all_faults_of_a_document_are_reported_together():
    with pytest.raises(ConfigError) as error:
        Run.parse({"optimizer": {"lr": "x", "stepz": 1, "mode": "slow"}, "validate": 1.5, "x": 1}, source="cfg.yaml")
    text = str(error.value)
    assert text.startswith("5 faults in the configuration\n  1. ")
    for key in ("optimizer.lr", "optimizer.stepz", "optimizer.mode", "validate", "x is not a key"):
        assert key in text


def test_a_broken_rule_of_a_section_is_reported_with_the_faults_of_others():
    with pytest.raises(ConfigError) as error:
        Run.parse({"optimizer": {"lr": 2.0, "steps": 2000}, "validate": -1}, source="cfg.yaml")
    assert "run.optimizer.lr=2.0 for 2000 steps diverges: use 1 or less" in str(error.value)
    assert "validate must be at least 0" in str(error.value)


def test_a_users_own_pydantic_validator_is_told_like_a_rule():
    class Own(Config):
        width: int = 3
        """A width."""

        @field_validator("width")
        @classmethod
        def _odd(cls, width: int) -> int:
            if width % 2 == 0:
                raise ValueError(f"{width} is even")
            return width

    with pytest.raises(ConfigError) as error:
        Own.parse({"width": 4}, source="f")
    assert (error.value.what, error.value.fix) == ("width: 4 is even", "correct the value (A width.)")


@pytest.mark.parametrize("document", [None, 3, "text", [], [1], {}, {"optimizer": None}, {"optimizer": []}])
def test_what_is_no_section_is_refused(document):
    with pytest.raises(ConfigError):
        Run.parse(document, source="f")


def test_numbers_of_any_length_are_refused_without_a_trace():
    with pytest.raises(ConfigError, match="must be 'fast' or 'exact', not a number of more than 60 digits"):
        parse(mode=10**1_000)
    with pytest.raises(ConfigError, match="a number has more than 4,300 digits"):
        parse(mode=10**10_000)


def test_a_whole_number_does_for_a_float_and_a_list_for_a_tuple():
    run = parse(lr=1, betas=[0, 0.5])
    assert run.optimizer.lr == 1.0
    assert run.optimizer.betas == (0.0, 0.5)


def test_late_assignment_is_refused_and_names_the_way():
    run = parse()
    with pytest.raises(ConfigError, match=re.escape("config.replace(lr=...)")):
        run.optimizer.lr = 3.0  # type: ignore[misc]
    assert run.optimizer.lr == 0.1


def test_a_changed_copy_is_checked():
    run = parse()
    assert run.replace(check=5).check == 5
    assert run.replace(validate=5).check == 5
    assert run.replace(optimizer=run.optimizer.replace(lr=0.5)).optimizer.lr == 0.5
    assert run.check == 0
    with pytest.raises(ConfigError, match="lr must be greater than 0"):
        run.optimizer.replace(lr=-1.0)
    with pytest.raises(ConfigError, match="did you mean `steps`"):
        run.optimizer.replace(step=1)
    with pytest.raises(ConfigError, match="diverges"):
        run.optimizer.replace(steps=5000, lr=3.0)


def test_a_copy_keeps_every_value_it_was_not_asked_to_change():
    run = parse(steps=7, note="n", devices=3)
    assert run.replace() == run
    assert run.optimizer.replace(lr=0.2).replace(lr=0.1) == run.optimizer


@pytest.mark.parametrize(
    ("word", "expected"),
    [("stps", "steps"), ("STEPS", "steps"), ("10m", "10m-pretrain"), ("qqqq", None), ("", None)],
)
def test_the_nearest_word_is_what_was_meant(word, expected):
    assert nearest(word, ["steps", "lr", "10m-pretrain", "10m-published"]) == expected
