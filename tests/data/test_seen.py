"""Which cells were seen: stores against ledgers, from the command and from a run's point of view."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest

from scmf.core.errors import StoreError
from scmf.data.genes import load_gene_table
from scmf.data.ingest.convert import convert
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.ledger import Ledger
from scmf.data.seen import SeenCells, are_seen, ledger_of, split_seen
from scmf.data.store import CellStore


@pytest.fixture(scope="module")
def changed_h5ad(demo_h5ad, tmp_path_factory):
    """The demo's cells in another order with genes in another order; every third has one molecule more."""
    table = anndata.read_h5ad(demo_h5ad)[::-1, ::-1].copy()
    counts = table.X.toarray() if hasattr(table.X, "toarray") else np.asarray(table.X)
    known = next(i for i, gene in enumerate(table.var_names) if gene.startswith("ENSG"))
    counts[::3, known] += 1
    table.X = counts
    path = tmp_path_factory.mktemp("changed") / "changed.h5ad"
    table.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def changed_store(changed_h5ad, tmp_path_factory):
    """That file as a store."""
    dest = tmp_path_factory.mktemp("changed store") / "store"
    convert([changed_h5ad], dest, ConvertOptions(), log=lambda _: None)
    return CellStore.open(dest)


def test_cells_are_told_from_changed_ones_in_a_store_of_another_order(demo_store, changed_store):
    split = split_seen(changed_store, ledger_of(demo_store))
    assert split.unseen.tolist() == list(range(0, 210, 3))
    assert sorted([*split.seen, *split.unseen]) == list(range(210))
    assert split.share == 140 / 210
    assert split.same_genes
    assert split.by_chance < 0.01


def test_a_ledger_of_some_cells_has_those_cells(demo_store):
    chosen = np.array([3, 5, 8, 13, 205])
    assert np.flatnonzero(are_seen(demo_store, ledger_of(demo_store, chosen))).tolist() == chosen.tolist()


def test_a_ledger_made_with_its_hashes_on_disk_is_the_same(demo_store, tmp_path):
    told = []
    on_disk = ledger_of(demo_store, scratch=tmp_path, in_memory=50, on_cells=told.append)
    assert on_disk.to_bytes() == ledger_of(demo_store).to_bytes()
    assert sum(told) == 210


def test_what_a_run_has_seen_grows_step_by_step_and_goes_on_from_a_checkpoint(demo_store):
    seen = SeenCells(demo_store, n_train=200)
    for step in range(5):
        seen.add(np.arange(8 * step, 8 * step + 8))
    first = seen.ledger()
    assert np.flatnonzero(are_seen(demo_store, first)).tolist() == list(range(40))
    again = SeenCells(demo_store, n_train=200).go_on(Ledger.from_bytes(first.to_bytes(), where="checkpoint"))
    for run in (seen, again):
        run.add(np.array([39, 40, 40, 209]))
        assert np.flatnonzero(are_seen(demo_store, run.ledger())).tolist() == [*range(41), 209]
    assert seen.ledger().to_bytes() == again.ledger().to_bytes()


def test_cells_noted_before_are_not_read_again(demo_store, monkeypatch):
    seen = SeenCells(demo_store, n_train=200)
    seen.add(np.arange(50))
    seen.ledger()
    monkeypatch.setattr(CellStore, "fetch", lambda *_: pytest.fail("read again"))
    seen.add(np.arange(50))
    assert len(seen.ledger()) == 50


def test_the_command_writes_a_ledger_and_says_which_cells_of_another_store_it_has(
    run, demo_store, changed_store, tmp_path
):
    code, out, _ = run("ledger", demo_store.path, "--out", tmp_path / "a.ledger")
    assert code == 0
    assert "210 cells, 210 of them different" in out
    code, out, _ = run("seen", changed_store.path, "--ledger", tmp_path / "a.ledger", "--out", tmp_path / "a.parquet")
    assert code == 0
    assert out.startswith("140 of 210 cells (66.7%) were seen; of these about ")
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert [i for i, is_seen in zip(table["cell_id"], table["seen"], strict=True) if not is_seen] == list(
        range(0, 210, 3)
    )
    assert table["name"] == list(changed_store.obs([]).index)


def test_the_command_takes_a_file_that_is_not_yet_a_store(run, demo_store, changed_h5ad, tmp_path):
    run("ledger", demo_store.path, "--out", tmp_path / "a.ledger")
    code, out, _ = run("seen", changed_h5ad, "--ledger", tmp_path / "a.ledger", "--json")
    assert code == 0
    answer = json.loads(out)
    assert (answer["cells"], answer["seen"], answer["same_genes"]) == (210, 140, True)
    assert answer["ledger"]["store"] == demo_store.fingerprint


def test_other_genes_are_warned_of(run, demo_store, demo_h5ad, tmp_path):
    convert([demo_h5ad], tmp_path / "s", ConvertOptions(), log=lambda _: None)
    few = anndata.read_h5ad(demo_h5ad)[:, :20_000].copy()
    few.write_h5ad(tmp_path / "few.h5ad")
    run("ledger", demo_store.path, "--out", tmp_path / "a.ledger")
    _, out, _ = run("seen", tmp_path / "few.h5ad", "--ledger", tmp_path / "a.ledger")
    assert "warning: the ledger's cells were counted over other genes" in out


def test_mistakes_are_three_lines(run, demo_store, tmp_path):
    code, _, err = run("ledger", demo_store.path, "--out", demo_store.path / "a.ledger")
    assert code == 1
    assert len(err.splitlines()) == 3
    code, _, err = run("seen", demo_store.path, "--ledger", tmp_path / "none.ledger")
    assert code == 1
    assert "there is no ledger" in err
    run("ledger", demo_store.path, "--out", tmp_path / "a.ledger")
    (tmp_path / "b.h5ad").write_bytes(b"no file")
    code, _, err = run("seen", tmp_path / "b.h5ad", "--ledger", tmp_path / "a.ledger")
    assert code == 1
    assert len(err.splitlines()) == 3
    assert "scmf-store convert" in err


def test_a_damaged_store_gives_no_ledger(demo_store, tmp_path):
    import shutil

    shutil.copytree(demo_store.path, tmp_path / "s")
    path = tmp_path / "s" / "part-00002" / "X" / "indices" / "c" / "0"
    whole = bytearray(path.read_bytes())
    whole[100:102] = b"\xff\xff"
    path.write_bytes(whole)
    with pytest.raises(StoreError):
        ledger_of(CellStore.open(tmp_path / "s"))


def test_a_file_that_needs_flags_is_answered_with_both_commands(run, demo_h5ad, demo_store, tmp_path):
    table = anndata.read_h5ad(demo_h5ad)[:, :500].copy()
    human = load_gene_table("human")
    table.var = table.var.iloc[:, :0].set_axis([human[g].symbol if g in human else g for g in table.var_names])
    table.var_names_make_unique()
    table.write_h5ad(tmp_path / "my cells.h5ad")
    assert run("ledger", demo_store.path, "--out", tmp_path / "a.ledger")[0] == 0
    code, _, err = run("seen", tmp_path / "my cells.h5ad", "--ledger", tmp_path / "a.ledger")
    convert = f"scmf-store convert '{tmp_path}/my cells.h5ad' --dest DIR --gene-ids map"
    assert code == 1
    assert err.splitlines()[2] == f"  fix:   {convert}; then scmf-store seen DIR --ledger {tmp_path}/a.ledger"
