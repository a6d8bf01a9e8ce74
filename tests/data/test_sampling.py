"""Cells that come unequally often: exactly in the shares asked for, and none of a group before its neighbours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from scmf.core.errors import ConfigError, StoreError
from scmf.data.apportion import Apportionment
from scmf.data.config_order import BalancedConfig, UniformConfig, WeightsConfig
from scmf.data.joined import JoinedStore
from scmf.data.memory_source import write_store
from scmf.data.sampling import weighted_drawing
from scmf.data.split import RunSet, split_cells
from scmf.data.weighted import WeightedDrawing

N = 400


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three cell types of 300, 90 and 10 cells, shuffled."""
    draw = np.random.default_rng(0)
    types = draw.permutation(np.repeat(["common", "some", "rare"], [300, 90, 10]))
    weights = np.where(types == "rare", 4.0, np.where(types == "some", 1.0, 0.5))
    obs = pd.DataFrame(
        {
            "type": types,
            "w": weights,
            "holes": np.where(np.arange(N) == 7, np.nan, 1.0),
            "zero": np.zeros(N),
            "huge": np.where(types == "rare", 1e200, 1.0),
            "measured": draw.random(N),
            "partly": pd.Categorical(np.where(types == "rare", None, types)),
        },
        index=[f"c{i}" for i in range(N)],
    )
    folder = tmp_path_factory.mktemp("sampling") / "s"
    counts = csr_matrix(draw.poisson(1.0, (N, 5)) + 1)
    return write_store(folder, counts=counts, obs=obs, gene_ids=tuple(f"ENSG{i}" for i in range(5)))


def _drawing(store, sampling, *, seed=1):
    train = split_cells(store, by=None, validation=0.1, test=0.0, seed=0).train
    return train, weighted_drawing(store, train, sampling, batch=8, seed=seed)


def test_balanced_groups_are_drawn_equally_often_to_a_place(store):
    train, drawing = _drawing(store, BalancedConfig(by="type"))
    types = store.obs(["type"])["type"].to_numpy()
    for epoch in range(3):
        drawn = drawing.take(np.arange(len(train)), epoch=epoch)
        assert train.contains(drawn).all()
        counts = pd.Series(types[drawn]).value_counts()
        assert set(counts.index) == {"common", "some", "rare"}
        assert counts.max() - counts.min() <= 1


def test_cells_without_a_label_are_a_group_of_their_own(store):
    train, drawing = _drawing(store, BalancedConfig(by="partly"))
    missing = store.obs(["partly"])["partly"].isna().to_numpy()
    drawn = drawing.take(np.arange(len(train)), epoch=0)
    assert missing[drawn].sum() == pytest.approx(len(train) / 3, abs=1)


def test_weights_of_a_column_are_met_and_zero_is_never_drawn(store):
    train, drawing = _drawing(store, WeightsConfig(column="w"))
    obs = store.obs(["type", "w"])
    drawn = np.concatenate([drawing.take(np.arange(len(train)), epoch=e) for e in range(20)])
    ids = train.take(np.arange(len(train)))
    expected = obs["w"].to_numpy()[ids] / obs["w"].to_numpy()[ids].sum() * len(drawn)
    counts = np.bincount(drawn, minlength=N)[ids]
    # Within a group the draws of two cells differ by one; a group's share is met to a place an epoch.
    assert np.abs(counts - expected).max() <= 1 + 20 / 9
    assert np.bincount(drawn, minlength=N)[~train.contains(np.arange(N))].sum() == 0


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any),
    seed=st.integers(0, 50),
    epochs=st.integers(1, 5),
)
def test_neighbours_in_a_group_are_drawn_equally_often_up_to_one(sizes, seed, epochs):
    n = sum(sizes)
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    cells = RunSet(np.zeros(1, np.int64), np.array([0, n], np.int64))
    drawing = WeightedDrawing(cells, groups, np.ones(len(sizes)), seed=seed)
    drawn = np.concatenate([drawing.take(np.arange(n), epoch=e) for e in range(epochs)])
    counts = np.bincount(drawn, minlength=n)
    for group in range(len(sizes)):
        if sizes[group]:
            assert np.ptp(counts[groups == group]) <= 1
            assert abs(counts[groups == group].sum() - epochs * n / np.count_nonzero(sizes)) < 2 + np.log2(epochs)


def test_a_draw_is_a_function_of_seed_epoch_and_place(store):
    train, drawing = _drawing(store, BalancedConfig(by="type"))
    whole = drawing.take(np.arange(len(train)), epoch=1_000_000)
    places = np.random.default_rng(0).integers(0, len(train), 40)
    assert np.array_equal(drawing.take(places, epoch=1_000_000), whole[places])
    assert not np.array_equal(
        _drawing(store, BalancedConfig(by="type"), seed=2)[1].take(places, epoch=0), whole[places]
    )


@settings(deadline=None)
@given(
    shares=st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda s: sum(s) > 1e-3),
    places=st.integers(1, 10**9),
    offset=st.integers(0, 2**63),
    first=st.integers(0, 2**30),
)
def test_places_are_divided_to_the_last_one_and_counted_without_going_through_the_epochs(shares, places, offset, first):
    divided = Apportionment(np.array(shares), places, offset=offset)
    exact = np.array(shares) / sum(shares) * places
    before = divided.epoch(first).before
    for number in range(first, first + 9):
        epoch = divided.epoch(number)
        assert epoch.slots.sum() == places
        assert epoch.slots.min() >= 0
        assert np.abs(epoch.slots - exact).max() < 1 + 1e-6 * places
        assert np.array_equal(epoch.before, before)
        before = before + epoch.slots


def test_cells_of_many_different_weights_are_drawn_as_often_as_these_ask():
    n, epochs = 2_000, 64
    weights = np.random.default_rng(0).lognormal(size=n)
    cells = RunSet(np.zeros(1, np.int64), np.array([0, n], np.int64))
    drawing = WeightedDrawing(cells, np.arange(n, dtype=np.int32), weights, seed=1)
    drawn = np.bincount(np.concatenate([drawing.take(np.arange(n), epoch=e) for e in range(epochs)]), minlength=n)
    # Rounded the same way in every epoch, a quarter of these cells would never come and others come 30 times too often.
    assert np.abs(drawn - weights / weights.sum() * n * epochs).max() < 4


def test_uniform_sampling_needs_no_table(store):
    assert _drawing(store, UniformConfig())[1] is None


@pytest.mark.parametrize(
    ("sampling", "error", "sentence"),
    [
        pytest.param(WeightsConfig(column="holes"), StoreError, "1 of 400 cells have none", id="missing"),
        pytest.param(WeightsConfig(column="type"), StoreError, "400 of 400 cells have none", id="text"),
        pytest.param(WeightsConfig(column="zero"), ConfigError, "none can be drawn", id="zero"),
        pytest.param(WeightsConfig(column="gone"), StoreError, "no column 'gone'", id="absent"),
        pytest.param(BalancedConfig(by="measured"), ConfigError, "different measurements", id="continuous"),
        pytest.param(WeightsConfig(column="huge", exponent=2.0), ConfigError, "too large to be added up", id="huge"),
    ],
)
def test_a_column_that_gives_no_weights_says_why(store, sampling, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        _drawing(store, sampling)
    assert len(str(caught.value).splitlines()) == 3


def test_too_many_weights_are_refused(store, monkeypatch):
    monkeypatch.setattr("scmf.data.sampling.MOST_WEIGHTS", 100)
    with pytest.raises(StoreError, match="400 different weights"):
        _drawing(store, WeightsConfig(column="measured"))


def test_a_stores_weight_multiplies_the_draws_of_each_of_its_cells(store):
    both = JoinedStore([store, store], weights=[1.0, 3.0])
    train = RunSet(np.zeros(1, np.int64), np.array([0, 2 * N], np.int64))
    drawing = weighted_drawing(both, train, UniformConfig(), batch=8, seed=0)
    drawn = drawing.take(np.arange(2 * N), epoch=0)
    assert [(drawn < N).sum(), (drawn >= N).sum()] == [200, 600]
    balanced = weighted_drawing(both, train, BalancedConfig(by="type"), batch=8, seed=0)
    drawn = balanced.take(np.arange(2 * N), epoch=0)
    types = both.obs(["type"])["type"].to_numpy()
    table = pd.crosstab(types[drawn], drawn >= N)
    assert (abs(table[True] / table[False] - 3) < 0.1).all()
    assert table.sum(axis=1).max() - table.sum(axis=1).min() <= 2
