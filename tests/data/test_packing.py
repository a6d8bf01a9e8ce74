"""Layouts: every cell whole, once, within the budget, and little left empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.data.collate import lay_segments
from scmf.data.packing import packed_layout, padded_layout, share_by_count, share_by_length

SEQ_LENGTH = 64
lengths_of_cells = st.lists(st.integers(0, SEQ_LENGTH), max_size=120).map(lambda x: np.array(x, dtype=np.int64))


def _check(layout, lengths, align):
    assert layout.positions % align == 0
    assert layout.positions > 0
    placed = np.concatenate(layout.cells)
    assert sorted(placed) == np.flatnonzero(lengths).tolist()
    for members, starts in zip(layout.cells, layout.starts, strict=True):
        ends = starts + lengths[members]
        assert (starts[1:] >= ends[:-1]).all()
        assert starts.min(initial=0) >= 0
        assert ends.max(initial=0) <= layout.positions


@settings(max_examples=150, deadline=None)
@given(lengths=lengths_of_cells, budget=st.integers(SEQ_LENGTH, 500), align=st.sampled_from([1, 16, 48, 128]))
def test_packs_hold_every_cell_once_within_the_budget(lengths, budget, align):
    layout = packed_layout(lengths, budget=budget, align=align)
    _check(layout, lengths, align)
    room = max(budget // align * align, -(-int(lengths.max(initial=1)) // align) * align)
    assert layout.positions <= room
    # First-fit leaves at most one pack half empty.
    assert len(layout.cells) <= max(1, 2 * lengths.sum() / room + 1)


@settings(max_examples=150, deadline=None)
@given(lengths=lengths_of_cells, cells=st.integers(1, 20), align=st.sampled_from([1, 16, 48, 128]))
def test_padded_microbatches_give_every_cell_the_same_room(lengths, cells, align):
    layout = padded_layout(lengths, cells=cells, align=align)
    _check(layout, lengths, align)
    for members, starts in zip(layout.cells, layout.starts, strict=True):
        assert len(members) <= cells
        assert len(np.unique(np.diff(starts))) <= 1


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_segments_tile_the_microbatch_and_none_is_longer_than_a_sequence(data):
    lengths = np.array(data.draw(st.lists(st.integers(1, SEQ_LENGTH), max_size=30)), dtype=np.int64)
    gaps = np.array(data.draw(st.lists(st.integers(0, 200), min_size=len(lengths) + 1, max_size=len(lengths) + 1)))
    starts = np.cumsum(gaps[:-1] + np.concatenate([[0], lengths[:-1]]) if len(lengths) else np.zeros(0)).astype(
        np.int64
    )
    n_positions = int(lengths.sum() + gaps.sum())
    if n_positions == 0:
        return
    positions = np.full(n_positions, -1, np.int32)
    bounds = lay_segments(lengths, starts, n_positions, SEQ_LENGTH, positions)
    assert (bounds[0], bounds[-1]) == (0, n_positions)
    sizes = np.diff(bounds)
    assert sizes.min() > 0
    assert sizes.max() <= SEQ_LENGTH
    assert np.isin(starts, bounds).all()
    assert np.isin(starts + lengths, bounds).all()
    assert np.array_equal(positions, np.concatenate([np.arange(n) for n in sizes]))


@settings(max_examples=100, deadline=None)
@given(lengths=lengths_of_cells, n_replicas=st.integers(1, 8))
def test_replicas_differ_by_less_than_one_cell(lengths, n_replicas):
    replica = share_by_length(lengths, n_replicas=n_replicas)
    load = np.bincount(replica, weights=lengths, minlength=n_replicas)
    assert len(load) == n_replicas
    assert load.max() - load.min() <= lengths.max(initial=0)


@pytest.mark.parametrize("n_replicas", [1, 2, 4, 8])
def test_padded_replicas_have_as_many_cells(n_replicas):
    assert np.bincount(share_by_count(64, n_replicas=n_replicas)).tolist() == [64 // n_replicas] * n_replicas


def test_a_small_step_is_not_stretched_to_the_budget():
    layout = packed_layout(np.full(4, 100), budget=16_384, align=128)
    assert len(layout.cells) == 1
    assert layout.positions == 512


def test_packs_of_one_step_are_nearly_equal():
    lengths = np.clip(np.random.default_rng(0).lognormal(7, 0.6, 256), 100, 2048).astype(np.int64)
    layout = packed_layout(lengths, budget=16_384, align=128)
    tokens = [lengths[members].sum() for members in layout.cells]
    assert max(tokens) - min(tokens) < 0.02 * layout.positions
    assert sum(tokens) / (len(tokens) * layout.positions) > 0.97


def test_nothing_to_pack_is_one_empty_microbatch():
    for layout in (
        packed_layout(np.zeros(3, np.int64), budget=64, align=16),
        padded_layout(np.zeros(3, np.int64), cells=2, align=16),
    ):
        assert layout.positions == 16
        assert [len(members) for members in layout.cells] == [0]
