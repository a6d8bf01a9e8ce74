"""What a store costs that is larger than any disk here: the same, whatever its number of cells."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from scmf.data.store import CellStore

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_100m.py"


@pytest.fixture(scope="module")
def simulate():
    spec = importlib.util.spec_from_file_location("simulate_100m", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_opening_and_drawing_cost_the_same_for_one_and_for_four_million_cells(simulate, tmp_path):
    measured = {}
    for millions in (1, 4):
        folder = tmp_path / str(millions)
        size = simulate.make_store(folder, n_cells=millions * 1_000_000, cells_per_part=500_000)
        assert size > millions * 8e9
        on_disk = {(s.st_ino, s.st_blocks * 512) for p in folder.rglob("*") if p.is_file() for s in [p.stat()]}
        assert sum(blocks for _, blocks in on_disk) < 1e8
        measured[millions] = simulate.measure(folder)
    one, four = measured[1], measured[4]
    # Memory is not a matter of how busy the machine is; times are compared by a wide margin.
    assert four["open_mb"] < one["open_mb"] + 10
    assert four["own_mb"] < one["own_mb"] + 10
    for name in ("random_us_a_cell", "blocks_us_a_cell"):
        assert four[name] < 10 * one[name] + 5
    assert four["group_split_peak_mb"] < one["group_split_peak_mb"] + 100


def test_the_simulated_store_is_a_store(simulate, tmp_path):
    simulate.make_store(tmp_path / "s", n_cells=4_000, cells_per_part=1_000)
    store = CellStore.open(tmp_path / "s")
    assert (len(store), len(store.parts)) == (4_000, 4)
    assert store.lengths([0, 3_999]).tolist() == [2_000, 2_000]
    assert len(store.obs_groups("donor_id").names) == 20
    assert np.array_equal(store.fetch([1_500]).counts, np.zeros(2_000))
