"""The keyed permutation: a bijection of any size, and as good a shuffle as a shuffle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.data.order import permute, unpermute

keys = st.integers(0, 2**64 - 1)


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 10_000), key=keys)
def test_every_number_stands_at_one_place(n, key):
    order = permute(np.arange(n), n=n, key=key)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(unpermute(order, n=n, key=key), np.arange(n))


@settings(max_examples=100, deadline=None)
@given(n=st.integers(10**12, 2**62 - 1), key=keys, seed=st.integers(0, 2**32))
def test_a_trillion_places_need_no_memory(n, key, seed):
    places = np.unique(np.random.default_rng(seed).integers(0, n, 50))
    values = permute(places, n=n, key=key)
    assert values.min() >= 0
    assert values.max() < n
    assert len(np.unique(values)) == len(places)
    assert np.array_equal(unpermute(values, n=n, key=key), places)


def test_a_place_does_not_depend_on_what_else_is_asked():
    whole = permute(np.arange(1_000), n=1_000, key=5)
    assert np.array_equal(permute(np.array([999, 3, 3]), n=1_000, key=5), whole[[999, 3, 3]])


@pytest.mark.parametrize("n", [3, 24, 100])
def test_each_number_is_equally_likely_at_each_place(n):
    trials = 4_000
    seen = np.zeros((n, n))
    for key in range(trials):
        seen[np.arange(n), permute(np.arange(n), n=n, key=key * 7919)] += 1
    expected = trials / n
    chi_squared = ((seen - expected) ** 2 / expected).sum()
    freedom = (n - 1) ** 2
    assert abs(chi_squared - freedom) < 5 * np.sqrt(2 * freedom)


def test_neighbours_and_distant_keys_are_uncorrelated():
    n = 100_000
    first = permute(np.arange(n), n=n, key=1).astype(float)
    second = permute(np.arange(n), n=n, key=2).astype(float)
    for a, b in ((first[:-1], first[1:]), (first, np.arange(n)), (first, second)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)
    # A run of consecutive cells (one donor, one file) is spread over the whole epoch.
    places = np.sort(unpermute(np.arange(1_000), n=n, key=1))
    gaps = np.diff(places)
    assert 0.9 < gaps.std() / gaps.mean() < 1.1  # exponential gaps: what a uniform shuffle gives


@pytest.mark.parametrize("bad", [-1, 10])
def test_a_place_outside_the_order_is_an_error(bad):
    with pytest.raises(IndexError, match=r"0\.\.9"):
        permute(np.array([bad]), n=10, key=0)
