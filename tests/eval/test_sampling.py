"""The choice of the next token against computations by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError
from scmf.eval.sampling import Sampling

# Probabilities 0.5, 0.25, 0.125, 0.125 in the order of the ids 2, 0, 1, 3.
LOGITS = np.log(np.array([0.25, 0.125, 0.5, 0.125]))


def test_without_limits_the_probabilities_are_the_softmax_of_the_scores():
    assert Sampling().probabilities(LOGITS) == pytest.approx([0.25, 0.125, 0.5, 0.125])


def test_the_temperature_divides_the_scores():
    # At 0.5 probabilities are squared: 1/16, 1/64, 1/4, 1/64 of 22/64.
    assert Sampling(temperature=0.5).probabilities(LOGITS) == pytest.approx([4 / 22, 1 / 22, 16 / 22, 1 / 22])


def test_a_temperature_near_zero_leaves_the_likeliest_alone():
    assert Sampling(temperature=1e-300).probabilities(LOGITS) == pytest.approx([0, 0, 1, 0])


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        pytest.param(1, [0, 0, 1, 0], id="the likeliest"),
        pytest.param(2, [1 / 3, 0, 2 / 3, 0], id="two, scaled to one"),
        pytest.param(3, [2 / 7, 1 / 7, 4 / 7, 0], id="of equal ones the lower id"),
        pytest.param(9, [0.25, 0.125, 0.5, 0.125], id="more than there are"),
    ],
)
def test_top_k_keeps_the_k_likeliest(top_k, expected):
    assert Sampling(top_k=top_k).probabilities(LOGITS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        pytest.param(0.1, [0, 0, 1, 0], id="never none"),
        pytest.param(0.49, [0, 0, 1, 0], id="reached by the first"),
        pytest.param(0.51, [1 / 3, 0, 2 / 3, 0], id="the one that crosses it stays"),
        pytest.param(0.76, [2 / 7, 1 / 7, 4 / 7, 0], id="of equal ones the lower id"),
        pytest.param(1.0, [0.25, 0.125, 0.5, 0.125], id="all"),
    ],
)
def test_top_p_keeps_the_fewest_that_sum_to_p(top_p, expected):
    assert Sampling(top_p=top_p).probabilities(LOGITS) == pytest.approx(expected)


def test_top_p_is_taken_of_what_top_k_has_left():
    # Of 2/3 and 1/3 the first alone reaches 0.6; of all four it would not.
    assert Sampling(top_k=2, top_p=0.6).probabilities(LOGITS) == pytest.approx([0, 0, 1, 0])


def test_temperature_zero_takes_the_likeliest_and_of_equal_ones_the_lower_id():
    assert Sampling(temperature=0.0).choose(LOGITS, text=0, position=0) == 2
    assert Sampling(temperature=0.0).choose(np.array([1.0, 3.0, 3.0]), text=0, position=0) == 1


def test_tokens_are_drawn_as_often_as_their_probabilities_say():
    drawn = [Sampling(seed=1).choose(LOGITS, text=0, position=i) for i in range(4000)]
    shares = np.bincount(drawn, minlength=4) / 4000
    # Four standard deviations of a share of a half.
    assert np.abs(shares - [0.25, 0.125, 0.5, 0.125]).max() < 4 * math.sqrt(0.25 / 4000)


def test_a_draw_depends_on_seed_text_and_position_alone():
    flat = np.zeros(1000)
    once = Sampling(seed=3).choose(flat, text=2, position=5)
    assert Sampling(seed=3).choose(flat, text=2, position=5) == once
    others = [(4, 2, 5), (3, 1, 5), (3, 2, 6)]
    drawn = [Sampling(seed=seed).choose(flat, text=text, position=position) for seed, text, position in others]
    assert once not in drawn


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.floats(-50, 50) | st.just(-math.inf), min_size=1, max_size=30).filter(
        lambda s: max(s) > -math.inf
    ),
    top_k=st.none() | st.integers(1, 40),
    top_p=st.none() | st.floats(0.01, 1.0),
    position=st.integers(0, 10**6),
)
def test_a_token_that_is_cut_off_or_forbidden_is_never_chosen(scores, top_k, top_p, position):
    sampling, logits = Sampling(temperature=0.7, top_k=top_k, top_p=top_p), np.array(scores)
    weights = sampling.probabilities(logits)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[sampling.choose(logits, text=0, position=position)] > 0
    assert (weights[np.isneginf(logits)] == 0).all()
    assert (weights > 0).sum() <= (top_k or len(scores))


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"temperature": math.nan}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"seed": -1}],
)
def test_a_setting_that_means_nothing_is_refused_by_the_name_of_its_option(wrong):
    with pytest.raises(ConfigError) as error:
        Sampling(**wrong)
    assert f"--{next(iter(wrong)).replace('_', '-')}" in error.value.what
