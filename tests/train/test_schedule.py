"""Schedules as functions of the step: bounded, continuous, and the same for whoever asks."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError
from scmf.train.schedule import (
    ALIASES,
    SCHEDULES,
    ConstantConfig,
    CosineConfig,
    ExponentialConfig,
    InverseSqrtConfig,
    LinearConfig,
    PlateauConfig,
    ScheduleConfig,
    WsdConfig,
)
from support.tiny import tiny_config

PEAK = 1e-3


def schedule(kind: str, *, warmup: int, rest: int, **changes: Any) -> ScheduleConfig:
    """A kind with lengths that fit a run of warmup + 3 * rest steps."""
    lengths: dict[str, dict[str, Any]] = {
        "cosine": {"hold_steps": rest},
        "linear": {"hold_steps": rest},
        "exponential": {"hold_steps": rest},
        "wsd": {"decay_steps": rest, "hold_steps": rest},
        "inverse_sqrt": {"timescale": rest},
        "constant": {},
        "plateau": {},
    }
    return SCHEDULES[kind](warmup_steps=warmup, **lengths[kind], **changes)


kinds = st.sampled_from(list(SCHEDULES))


@settings(max_examples=200, deadline=None)
@given(
    kind=kinds,
    warmup=st.integers(0, 10**6),
    rest=st.integers(1, 10**6),
    step=st.integers(0, 10**7),
    ratio=st.floats(1e-6, 1.0),
    reductions=st.integers(0, 50),
)
def test_a_rate_is_never_above_the_peak_and_never_below_the_floor_once_warm(
    kind, warmup, rest, step, ratio, reductions
):
    floor = {} if kind == "constant" else {"min_ratio": ratio}
    made = schedule(kind, warmup=warmup, rest=rest, **floor)
    rate = made.rate(step, peak=PEAK, max_steps=warmup + 3 * rest, reductions=reductions)
    assert 0.0 < rate <= PEAK
    assert step < warmup or rate >= ratio * PEAK * (1 - 1e-12)


@settings(max_examples=100, deadline=None)
@given(kind=kinds, decay=st.sampled_from(["linear", "cosine"]), warmup=st.integers(0, 40), rest=st.integers(1, 40))
def test_a_rate_has_no_jumps_that_longer_schedules_do_not_make_small(kind, decay, warmup, rest):
    more = {"decay": decay} if kind == "wsd" else {}
    for times in (1, 20):
        made = schedule(kind, warmup=times * warmup, rest=times * rest, **more)
        run = times * (warmup + 3 * rest)
        rates = [made.rate(step, peak=PEAK, max_steps=run) for step in range(run + 2)]
        largest = max(abs(a - b) for a, b in itertools.pairwise(rates))
        shortest = times * min(rest, warmup or rest)
        assert largest <= PEAK * 2.5 / shortest + 1e-12  # log(10), of the exponential to a tenth, is the steepest


@settings(max_examples=50, deadline=None)
@given(kind=kinds, warmup=st.integers(0, 50), rest=st.integers(1, 50), cut=st.integers(0, 100))
def test_a_resumed_run_has_the_rates_of_the_run_never_cut(kind, warmup, rest, cut):
    config = schedule(kind, warmup=warmup, rest=rest)
    again = type(config).model_validate_json(config.model_dump_json())
    run = warmup + 3 * rest
    steps = range(min(cut, run), run)
    assert [again.rate(s, peak=PEAK, max_steps=run) for s in steps] == [
        config.rate(s, peak=PEAK, max_steps=run) for s in steps
    ]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(CosineConfig(min_ratio=0.2), {0: 1.0, 50: 0.6, 100: 0.2}, id="cosine"),
        pytest.param(LinearConfig(min_lr=0.0), {0: 1.0, 25: 0.75, 100: 0.0, 150: 0.0}, id="linear"),
        pytest.param(LinearConfig(min_lr=0.0, horizon=50), {0: 1.0, 25: 0.5, 50: 0.0}, id="horizon"),
        pytest.param(LinearConfig(min_lr=0.0, hold_steps=50), {0: 1.0, 25: 0.5, 50: 0.0, 99: 0.0}, id="hold"),
        pytest.param(ExponentialConfig(min_ratio=0.01), {0: 1.0, 50: 0.1, 100: 0.01}, id="exponential"),
        pytest.param(InverseSqrtConfig(warmup_steps=9), {8: 0.9, 9: 1.0, 36: 0.5}, id="inverse_sqrt"),
        pytest.param(WsdConfig(decay_steps=20, min_ratio=0.0), {0: 1.0, 80: 1.0, 90: 0.5, 100: 0.0}, id="wsd"),
        pytest.param(
            WsdConfig(decay_steps=20, min_ratio=0.0, decay="sqrt"), {80: 1.0, 85: 0.5, 100: 0.0}, id="wsd, sqrt"
        ),
        pytest.param(ConstantConfig(warmup_steps=3), {0: 0.25, 2: 0.75, 3: 1.0, 99: 1.0}, id="constant"),
        pytest.param(CosineConfig(), {100: 0.1}, id="a tenth where no floor is given"),
    ],
)
def test_a_kind_has_the_rates_of_its_formula(config, expected):
    found = {step: config.rate(step, peak=1.0, max_steps=100) for step in expected}
    assert found == pytest.approx(expected, abs=1e-12)


def test_plateau_lowers_by_its_factor_down_to_the_floor():
    config = PlateauConfig(factor=0.5, min_lr=0.2)
    assert [config.rate(5, peak=1.0, max_steps=9, reductions=n) for n in range(5)] == [1.0, 0.5, 0.25, 0.2, 0.2]


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_read_and_written_back_as_the_one_name(alias):
    more = {"decay_steps": 10} if ALIASES[alias] == "wsd" else {}
    config = tiny_config(trainer__schedule={"kind": alias, "warmup_steps": 3, **more})
    assert config.trainer.schedule.kind == ALIASES[alias]
    assert isinstance(config.trainer.schedule, SCHEDULES[ALIASES[alias]])


def test_an_unknown_schedule_and_a_field_of_another_are_refused():
    with pytest.raises(ConfigError, match='"step" is not built in'):
        tiny_config(trainer__schedule={"kind": "step"})
    with pytest.raises(ConfigError, match="min_lr"):
        tiny_config(trainer__schedule={"kind": "constant", "min_lr": 0.0})
    with pytest.raises(ConfigError, match="decay_steps"):
        tiny_config(trainer__schedule={"kind": "wsd"})


def test_a_schedule_of_ones_own_is_asked_after_the_warm_up():
    config = tiny_config(
        trainer__schedule={"kind": "support.own_kinds.SawtoothConfig", "warmup_steps": 1}
    ).trainer.schedule
    assert [config.rate(s, peak=1.0, max_steps=9) for s in (0, 1, 6, 11)] == [0.5, 1.0, 0.5, 1.0]
    with pytest.raises(NotImplementedError, match=r"ScheduleConfig has no after_warmup"):
        ScheduleConfig().rate(0, peak=1.0, max_steps=2)
    assert math.isclose(config.rate(2, peak=1.0, max_steps=9), 0.9)
