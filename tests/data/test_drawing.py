"""Which cell stands where: every cell once an epoch, in stretches that a disk can read, mixed as far as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.random import derive_seed
from scmf.data.drawing import BlockDrawing, RandomDrawing, SortedSet, in_id_order
from scmf.data.order import derive_keys, permute, permute_each
from scmf.data.packing import share_by_neighbourhood
from scmf.data.split import HashSet, RunSet


def _all_of(n):
    return RunSet(np.zeros(1, np.int64), np.array([0, n], np.int64))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 1500),
    block=st.integers(1, 90),
    blocks=st.integers(2, 12),
    epoch=st.integers(0, 3),
)
def test_blocks_and_windows_give_every_cell_once_an_epoch(n, block, blocks, epoch):
    drawing = BlockDrawing(_all_of(n), seed=5, block=block, window=block * blocks)
    drawn = drawing.take(np.arange(n), epoch=epoch)
    assert np.array_equal(np.sort(drawn), np.arange(n))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 99), asked=st.lists(st.integers(0, 10**9), max_size=20))
def test_a_place_in_block_order_depends_on_seed_epoch_and_place_alone(n, seed, asked):
    drawing = BlockDrawing(_all_of(n), seed=seed, block=16, window=64)
    places = np.array(asked, np.int64) % n
    whole = drawing.take(np.arange(n), epoch=2)
    assert np.array_equal(drawing.take(places, epoch=2), whole[places])


def test_a_window_is_whole_blocks_of_neighbours_from_all_over_the_store():
    n, block, window = 64_000, 64, 4096
    drawing = BlockDrawing(_all_of(n), seed=1, block=block, window=window)
    cells = np.sort(drawing.take(np.arange(window), epoch=0))
    runs = np.split(cells, np.flatnonzero(np.diff(cells) > 1) + 1)
    assert all(len(run) % block == 0 and run[0] % block == 0 for run in runs)
    assert cells.min() < n / 8
    assert cells.max() > 7 * n / 8
    step = drawing.take(np.arange(64), epoch=0)
    assert len(np.unique(step // block)) > 30  # a step mixes the window's 64 blocks
    other = drawing.take(np.arange(window), epoch=1)
    assert len(np.intersect1d(cells // block, other // block)) < 20


def test_block_order_of_a_trillion_cells_needs_no_memory():
    n = 10**12
    drawing = BlockDrawing(_all_of(n), seed=1, block=64, window=4096)
    places = np.arange(n - 5000, n)
    cells = drawing.take(places, epoch=7)
    assert len(np.unique(cells)) == 5000
    assert cells.min() >= 0
    assert cells.max() < n


@pytest.mark.parametrize(("n", "first", "size"), [(1000, 100, 900), (1000, 0, 1), (127, 3, 60), (2049, 5, 2044)])
def test_cells_drawn_by_hash_can_be_numbered_in_the_order_of_their_ids(n, first, size):
    cells = HashSet(n, 77, first, size)
    ordered = in_id_order(cells, n_cells=n)
    assert isinstance(ordered, SortedSet)
    expected = np.sort(cells.take(np.arange(size)))
    assert np.array_equal(ordered.take(np.arange(size)), expected)
    places = np.random.default_rng(0).integers(0, size, 50)
    assert np.array_equal(ordered.take(places), expected[places])
    with pytest.raises(IndexError):
        ordered.take(np.array([size]))


def test_the_set_of_all_cells_in_id_order_costs_nothing():
    ordered = in_id_order(HashSet(10**12, 5, 0, 10**12), n_cells=10**12)
    assert ordered.take(np.array([3, 10**12 - 1])).tolist() == [3, 10**12 - 1]


def test_random_order_is_the_keyed_permutation_of_the_set():
    cells = _all_of(500)
    order = RandomDrawing(cells, seed=9).take(np.arange(500), epoch=3)
    assert np.array_equal(order, permute(np.arange(500), n=500, key=derive_seed(9, "order", 3)))


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 2**64 - 1)), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_many_orders_at_once_equal_each_alone(orders):
    sizes, keys = np.array([n for n, _ in orders]), np.array([k for _, k in orders], np.uint64)
    places = sizes // 2
    alone = [int(permute(places[i : i + 1], n=int(sizes[i]), key=int(keys[i]))[0]) for i in range(len(orders))]
    assert permute_each(places, sizes=sizes, keys=keys).tolist() == alone


def test_a_place_outside_one_of_many_orders_is_an_error():
    with pytest.raises(IndexError):
        permute_each(np.array([1, 5]), sizes=np.array([2, 5]), keys=np.zeros(2, np.uint64))


def test_derived_keys_differ_and_depend_on_the_number_alone():
    keys = derive_keys(5, np.arange(10_000))
    assert len(np.unique(keys)) == 10_000
    assert derive_keys(5, np.array([77]))[0] == keys[77]
    assert derive_keys(6, np.array([77]))[0] != keys[77]


@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
def test_replicas_share_a_window_by_neighbourhood_and_evenly(replicas):
    drawing = BlockDrawing(_all_of(64_000), seed=1, block=64, window=4096)
    lengths = np.random.default_rng(0).integers(500, 3000, 64_000)
    mine, tokens = [[] for _ in range(replicas)], np.zeros(replicas)
    for first in range(0, 4096, 64):
        cells = drawing.take(np.arange(first, first + 64), epoch=0)
        share = share_by_neighbourhood(cells, lengths[cells], n_replicas=replicas)
        tokens += np.bincount(share, weights=lengths[cells], minlength=replicas)
        for replica in range(replicas):
            mine[replica].extend(cells[share == replica].tolist())
    assert tokens.max() / tokens.min() < 1.1
    touched = [len(np.unique(np.array(cells) // 64)) for cells in mine]
    # Each of the window's 64 blocks belongs to one replica, but for those at which a cut wanders.
    assert sum(touched) <= 64 + 30 * (replicas - 1)


def test_equal_cells_are_shared_in_equal_numbers():
    share = share_by_neighbourhood(np.arange(48)[::-1].copy(), np.ones(48, np.int64), n_replicas=6)
    assert np.bincount(share).tolist() == [8] * 6
