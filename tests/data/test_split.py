"""Splits: disjoint, whole, deterministic, and as near the shares as can be."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from scmf.core.errors import ConfigError, StoreError
from scmf.data.memory_source import write_store
from scmf.data.split import RunSet, split_cells

N = 600


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    draw = np.random.default_rng(0)
    donors = np.repeat([f"d{i:02}" for i in range(12)], np.arange(12) * 5 + 22)[:N]
    donors = np.concatenate([donors, np.full(N - len(donors), "d11")]).astype(object)
    obs = pd.DataFrame(
        {
            "donor": donors,
            "plate": draw.permutation(donors),
            "one": "all",
            "partly": pd.Categorical(np.where(draw.random(N) < 0.1, None, donors)),
            "n": np.arange(N),
        },
        index=[f"c{i}" for i in range(N)],
    )
    counts = csr_matrix(draw.poisson(1.0, (N, 5)) + 1)
    return write_store(
        tmp_path_factory.mktemp("split") / "s",
        counts=counts,
        obs=obs,
        gene_ids=tuple(f"ENSG{i}" for i in range(5)),
        cells_per_part=250,
    )


def _all(cells):
    return cells.take(np.arange(len(cells)))


@pytest.mark.parametrize("by", [None, "donor", "plate", "partly"])
@pytest.mark.parametrize(("validation", "test"), [(0.05, 0.0), (0.1, 0.2), (0.0, 0.0), (0.0, 0.3)])
def test_every_cell_is_in_exactly_one_set(store, by, validation, test):
    splits = split_cells(store, by=by, validation=validation, test=test, seed=3)
    sets = (splits.train, splits.validation, splits.test)
    taken = [_all(cells) for cells in sets]
    assert np.array_equal(np.sort(np.concatenate(taken)), np.arange(N))
    for cells, ids in zip(sets, taken, strict=True):
        member = np.isin(np.arange(N), ids)
        assert np.array_equal(cells.contains(np.arange(N)), member)
    assert (len(splits.validation) > 0) == (validation > 0)
    assert (len(splits.test) > 0) == (test > 0)


def test_by_hash_the_shares_are_exact_and_the_seed_decides(store):
    first = split_cells(store, by=None, validation=0.1, test=0.05, seed=1)
    again = split_cells(store, by=None, validation=0.1, test=0.05, seed=1)
    other = split_cells(store, by=None, validation=0.1, test=0.05, seed=2)
    assert (len(first.validation), len(first.test)) == (60, 30)
    assert np.array_equal(_all(first.validation), _all(again.validation))
    assert len(np.intersect1d(_all(first.validation), _all(other.validation))) < 20


@pytest.mark.parametrize("by", ["donor", "plate"])
def test_no_group_is_on_two_sides(store, by):
    splits = split_cells(store, by=by, validation=0.1, test=0.2, seed=5)
    groups = store.obs([by])[by].to_numpy()
    sides = [set(groups[_all(cells)]) for cells in (splits.train, splits.validation, splits.test)]
    assert not any(a & b for a, b in combinations(sides, 2))
    assert [set(names) for names in splits.held_out] == sides[1:]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=9),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 100),
)
def test_no_other_choice_of_groups_would_be_nearer_the_share(sizes, share, seed):
    class Cells:
        def __len__(self):
            return sum(sizes)

        def obs_groups(self, _column):
            return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), tuple(map(str, range(len(sizes))))

    held_out = len(split_cells(Cells(), by="x", validation=share, test=0.0, seed=seed).validation)
    possible = {
        sum(choice) for k in range(1, len(sizes)) for choice in combinations(sizes, k)
    }  # at least one group is held out, and one is left to train on
    target = share * sum(sizes)
    assert abs(held_out - target) == min(abs(p - target) for p in possible)


def test_unlabelled_cells_stay_together(store):
    splits = split_cells(store, by="partly", validation=0.1, test=0.2, seed=0)
    missing = np.flatnonzero(store.obs_groups("partly").codes < 0)
    assert sum(cells.contains(missing).any() for cells in (splits.train, splits.validation, splits.test)) == 1


@pytest.mark.parametrize(
    ("by", "validation", "sentence"),
    [
        pytest.param("one", 0.1, r"1 group\(s\), but 2 sets", id="one group"),
        pytest.param(None, 0.9999, "leave none to train on", id="all held out"),
    ],
)
def test_a_split_that_cannot_be_made_says_why(store, by, validation, sentence):
    with pytest.raises(ConfigError, match=sentence):
        split_cells(store, by=by, validation=validation, test=0.0, seed=0)


def test_a_missing_column_names_those_that_exist(store):
    with pytest.raises(StoreError, match="donor, plate"):
        split_cells(store, by="donr", validation=0.1, test=0.0, seed=0)


@given(st.lists(st.booleans(), max_size=60))
def test_runs_are_the_cells_that_they_were_made_of(member):
    member = np.array(member, dtype=bool)
    runs = RunSet.of(member)
    assert np.array_equal(_all(runs), np.flatnonzero(member))
    assert np.array_equal(runs.contains(np.arange(len(member))), member)


@pytest.mark.parametrize("by", [None, "donor"])
def test_a_place_outside_the_set_is_an_error(store, by):
    train = split_cells(store, by=by, validation=0.1, test=0.0, seed=0).train
    with pytest.raises(IndexError):
        train.take(np.array([len(train)]))
    with pytest.raises(IndexError):
        train.take(np.array([-1]))


def test_a_column_of_a_hundred_thousand_groups_is_divided_in_a_moment():
    class Cells:
        def __len__(self):
            return 300_000

        def obs_groups(self, _column):
            return np.arange(300_000, dtype=np.int32) // 3, tuple(map(str, range(100_000)))

    splits = split_cells(Cells(), by="barcode", validation=0.01, test=0.0, seed=0)
    assert len(splits.validation) == 3_000
    assert len(splits.train) == 297_000
