"""Where the time goes: by phases on the host, by events on a device, and in Megatron's schedules."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.train.engine import StepReport
from scmf.train.interval import Interval, time_line
from scmf.train.loss_average import LossAverage
from scmf.train.phases import PHASES, Clock, listen_to_waits


class Hands:
    """The hands of a clock that a test moves."""

    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


programs = st.recursive(
    st.lists(st.floats(0.0, 10.0), max_size=3),
    lambda inner: st.lists(st.tuples(st.sampled_from(PHASES), inner) | st.floats(0.0, 10.0), max_size=4),
    max_leaves=20,
)


def play(program, clock, hands, spent, inside="other"):
    """Let time pass as a program says: a number passes inside the phase that is open, a pair opens one."""
    for part in program:
        if isinstance(part, tuple):
            with clock.phase(part[0]):
                play(part[1], clock, hands, spent, part[0])
        else:
            hands.at += part
            spent[inside] += part


@given(programs)
def test_every_moment_belongs_to_the_innermost_phase_and_the_parts_add_up(program):
    hands = Hands()
    clock, spent = Clock(now=hands), dict.fromkeys(PHASES, 0.0)
    play(program, clock, hands, spent)
    taken = clock.take()
    assert taken == pytest.approx(spent)
    assert sum(taken.values()) == pytest.approx(hands.at)
    assert sum(clock.take().values()) == 0.0


def test_a_phase_that_was_interrupted_leaves_its_time_and_is_closed():
    hands = Hands()
    clock = Clock(now=hands)

    def fail():
        with clock.phase("optimizer"):
            hands.at += 2.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    hands.at += 1.0
    taken = clock.take()
    assert (taken["optimizer"], taken["other"]) == (2.0, 1.0)


class Device:
    """A device that has done its work up to some moment."""

    def __init__(self):
        self.enqueued = 0.0
        self.done = 0.0

    def mark(self):
        at = self.enqueued
        return SimpleNamespace(at=at, passed=lambda: self.done >= at, seconds_until=lambda later: later.at - at)


def test_what_a_device_did_later_is_moved_from_where_the_host_waited_for_it():
    hands, device = Hands(), Device()
    clock = Clock(mark=device.mark, now=hands)
    with clock.phase("optimizer"):
        hands.at += 1.0
        device.enqueued += 5.0
    with clock.phase("forward_backward"):
        hands.at += 10.0
    device.done = 5.0
    taken = clock.take()
    assert (taken["optimizer"], taken["forward_backward"]) == (5.0, 6.0)
    assert sum(taken.values()) == hands.at


def test_what_a_device_has_not_done_yet_is_not_waited_for_and_counted_the_next_time():
    hands, device = Hands(), Device()
    clock = Clock(mark=device.mark, now=hands)
    with clock.phase("optimizer"):
        hands.at += 1.0
        device.enqueued += 5.0
    assert clock.take()["optimizer"] == 1.0
    device.done = 5.0
    with clock.phase("forward_backward"):
        hands.at += 6.0
    taken = clock.take()
    assert (taken["optimizer"], taken["forward_backward"]) == (4.0, 2.0)


def test_no_more_is_moved_than_the_host_has_waited():
    hands, device = Hands(), Device()
    clock = Clock(mark=device.mark, now=hands)
    with clock.phase("optimizer"):
        device.enqueued = device.done = 5.0
    with clock.phase("forward_backward"):
        hands.at += 3.0
    taken = clock.take()
    assert (taken["optimizer"], taken["forward_backward"]) == (3.0, 0.0)


def test_megatrons_waits_are_communication_and_its_computing_is_not():
    hands = Hands()
    clock, config = Clock(now=hands), SimpleNamespace(timers=None)

    def finalize(amount):
        hands.at += amount
        return "sums"

    config.finalize_model_grads_func = finalize
    listen_to_waits(config, clock, ranks=2)
    with clock.phase("forward_backward"):
        for name, amount in (("forward-compute", 1.0), ("forward-send-backward-recv", 2.0), ("backward-recv", 4.0)):
            config.timers(name, log_level=2).start()
            hands.at += amount
            config.timers(name).stop()
        assert config.finalize_model_grads_func(8.0) == "sums"
    taken = clock.take()
    assert (taken["forward_backward"], taken["communication"]) == (1.0, 14.0)


def test_a_rank_that_is_alone_waits_for_nobody():
    config = SimpleNamespace(timers=None, finalize_model_grads_func=len)
    listen_to_waits(config, Clock(), ranks=1)
    assert (config.timers, config.finalize_model_grads_func) == (None, len)


def test_rates_leave_validation_and_saving_out_and_times_do_not():
    hands = Hands()
    clock = Clock(now=hands)
    interval = Interval(clock, None)
    for phase, seconds in (("data_wait", 1.0), ("forward_backward", 2.0), ("validation", 10.0), ("save", 20.0)):
        with clock.phase(phase):
            hands.at += seconds
    hands.at += 1.0
    interval.add(StepReport(SimpleNamespace(tokens=400), 1.0, 1e-3, 8, 0.1), kiloflops=0)
    numbers = interval.numbers()
    assert numbers["speed/cells_per_s"] == 8 / 4
    assert numbers["speed/tokens_per_s"] == 400 / 4
    assert numbers["speed/data_wait"] == 1 / 4
    assert "speed/mfu" not in numbers
    assert sum(v for k, v in numbers.items() if k.startswith("time/")) == 34.0
    assert time_line(numbers).startswith("  time  34.00 s: save 58.8%, validation 29.4%")
    assert time_line({"val/loss": 1.0}) is None


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=30), st.floats(0.0, 0.999), st.integers(0, 30))
def test_the_average_of_the_loss_is_the_weighted_mean_and_a_resume_does_not_change_a_bit_of_it(losses, decay, cut):
    average = cut_average = LossAverage()
    for i, loss in enumerate(losses):
        average = average.after(loss, decay=decay)
        if i == cut:
            cut_average = LossAverage.of({"total": cut_average.total, "weight": cut_average.weight})
        cut_average = cut_average.after(loss, decay=decay)
    weights = [decay ** (len(losses) - 1 - i) for i in range(len(losses))]
    assert average.mean == pytest.approx(sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights))
    assert cut_average == average


def test_the_first_loss_is_its_own_average_and_losses_that_are_not_finite_are_left_out():
    average = LossAverage().after(math.nan, decay=0.98)
    assert math.isnan(average.mean)
    assert average.after(5.0, decay=0.98).after(math.inf, decay=0.98).mean == pytest.approx(5.0)
