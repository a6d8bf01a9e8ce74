"""Stores made of stores: added to, merged, chosen from, split. Every count is where it was."""

from __future__ import annotations

import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import ConfigError, InputError, StoreError
from scmf.data.cli import main
from scmf.data.edit.add import add_sources
from scmf.data.edit.merge import merge_stores
from scmf.data.edit.named import name_split, remove_split
from scmf.data.edit.subset import Wishes, split_store, subset_store
from scmf.data.ingest.convert import convert
from scmf.data.ingest.making import Making
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.split import named_split
from scmf.data.store import CellStore
from scmf.data.verify import verify_store


def quiet(_):
    pass


def counts_of(store):
    batch = store.fetch(np.arange(len(store)))
    return csr_matrix((batch.counts.astype(np.int64), batch.indices, batch.indptr), (len(store), store.n_genes))


def table(store):
    """Counts by cell name and gene id, and obs: what must not change, whatever the numbering."""
    counts = pd.DataFrame(counts_of(store).toarray(), columns=list(store.gene_ids), index=store.obs([]).index)
    return counts, store.obs()


def source(path, *, first, genes, n=12, seed=0):
    """A small h5ad file with donors and a column of text."""
    counts = np.random.default_rng([seed, first]).poisson(1.5, (n, len(genes))).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {"donor": [f"d{(first + k) % 3}" for k in range(n)], "age": np.arange(first, first + n) * 1.5},
        index=[f"cell{first + k}" for k in range(n)],
    )
    var = pd.DataFrame({"gene_symbol": [f"S{g}" for g in genes]}, index=[f"ENSG{g:011d}" for g in genes])
    anndata.AnnData(csr_matrix(counts), obs=obs, var=var).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    a = source(folder / "a.h5ad", first=0, genes=range(1, 9))
    b = source(folder / "b.h5ad", first=12, genes=range(5, 13))
    return a, b


OPTIONS = ConvertOptions(cells_per_part=5)


@pytest.fixture(scope="module")
def stores(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for path, name in zip(files, "ab", strict=True):
        convert([path], folder / name, OPTIONS, log=quiet)
    convert(files, folder / "both", OPTIONS, log=quiet)
    return tuple(CellStore.open(folder / name) for name in ("a", "b", "both"))


def check(store, expected):
    assert list(verify_store(store.path)) == []
    counts, obs = table(store)
    wanted, wanted_obs = table(expected)
    pd.testing.assert_frame_equal(counts[wanted.columns], wanted)
    assert counts.drop(columns=wanted.columns).to_numpy().sum() == 0
    for column in wanted_obs.columns:
        assert obs[column].astype(str).tolist() == wanted_obs[column].astype(str).tolist()
    sources = store.manifest.sources
    assert [s.first_cell for s in sources] == np.cumsum([0, *(s.n_cells for s in sources)])[:-1].tolist()
    assert sum(s.n_cells for s in sources) == len(store)
    lengths = np.unique(store.lengths(np.arange(len(store))), return_counts=True)
    assert store.manifest.length_histogram == tuple(zip(*(k.tolist() for k in lengths), strict=True))


def test_adding_a_source_gives_the_cells_of_converting_both_and_touches_no_old_file(files, stores, tmp_path):
    shutil.copytree(stores[0].path, tmp_path / "s")
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "s").glob("part-*/**/*") if p.is_file()}
    lines = []
    add_sources(tmp_path / "s", [files[1]], OPTIONS, log=lines.append)
    added = CellStore.open(tmp_path / "s")
    check(added, stores[2])
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before
    assert [s.name for s in added.manifest.sources] == ["a.h5ad", "b.h5ad"]
    assert "added: 12 cells of b.h5ad" in added.manifest.history[-1]
    assert list(tmp_path.iterdir()) == [tmp_path / "s"]
    assert anndata.read_zarr(tmp_path / "s" / "part-00003").var["gene_symbol"].tolist() == [
        f"S{g}" for g in range(1, 13)
    ]


def test_a_source_that_is_in_the_store_already_is_refused_and_added_again_only_when_said(files, stores, tmp_path):
    shutil.copytree(stores[0].path, tmp_path / "s")
    with pytest.raises(InputError, match="already") as caught:
        add_sources(tmp_path / "s", [files[0]], OPTIONS, log=quiet)
    assert "--duplicates keep" in caught.value.fix
    keep = ConvertOptions(cells_per_part=5, making=Making(duplicates="keep"))
    assert add_sources(tmp_path / "s", [files[0]], keep, log=quiet).n_cells == 24


def test_cells_that_repeat_others_are_told_after_adding_and_dropped_by_subset(files, stores, tmp_path):
    shutil.copytree(stores[0].path, tmp_path / "s")
    anndata.read_h5ad(files[0]).write_h5ad(tmp_path / "copy.h5ad", compression="lzf")  # the same cells, other bytes
    lines = []
    manifest = add_sources(tmp_path / "s", [tmp_path / "copy.h5ad"], OPTIONS, log=lines.append)
    assert manifest.duplicate_cells == 12
    assert any("12 cells have the same counts as an earlier cell (copy.h5ad repeats a.h5ad: 12)" in x for x in lines)
    subset_store(CellStore.open(tmp_path / "s"), tmp_path / "t", Wishes(drop_duplicates=True), links=True, log=quiet)
    check(CellStore.open(tmp_path / "t"), stores[0])


def test_an_addition_cut_between_moving_parts_and_the_manifest_goes_on(files, stores, tmp_path, monkeypatch):
    from scmf.data.edit import add

    shutil.copytree(stores[0].path, tmp_path / "s")
    fingerprint = stores[0].fingerprint

    def cut(path, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(add, "replace_file", cut)
    with pytest.raises(KeyboardInterrupt):
        add_sources(tmp_path / "s", [files[1]], OPTIONS, log=quiet)
    assert CellStore.open(tmp_path / "s").fingerprint == fingerprint
    monkeypatch.undo()
    lines = []
    add_sources(tmp_path / "s", [files[1]], OPTIONS, log=lines.append)
    assert "going on: 3 of 3 parts were finished before" in lines
    check(CellStore.open(tmp_path / "s"), stores[2])


def test_a_merged_store_is_the_stores_one_after_the_other(stores, tmp_path):
    lines = []
    merge_stores(stores[:2], tmp_path / "m", duplicates="report", links=True, log=lines.append)
    merged = CellStore.open(tmp_path / "m")
    check(merged, stores[2])
    assert merged.gene_ids == stores[2].gene_ids
    assert lines == ["3 parts linked, 0 copied, 3 rewritten"]
    first = "part-00000/X/data/c/0"
    assert (tmp_path / "m" / first).samefile(stores[0].path / first)


def test_merging_may_copy_instead_of_linking(stores, tmp_path):
    lines = []
    merge_stores([stores[0], stores[0]], tmp_path / "m", duplicates="report", links=False, log=lines.append)
    assert lines[0] == "0 parts linked, 6 copied, 0 rewritten"
    assert lines[1].startswith("duplicates: 12 cells have the same counts as an earlier cell")
    assert not (tmp_path / "m/part-00000/X/data/c/0").samefile(stores[0].path / "part-00000/X/data/c/0")


def test_stores_of_two_species_are_not_merged(stores, tmp_path):
    mouse = CellStore(stores[1].path, stores[1].manifest.replace(species="mouse"), stores[1].parts)
    with pytest.raises(StoreError, match="different species: human and mouse"):
        merge_stores([stores[0], mouse], tmp_path / "m", duplicates="keep", links=True, log=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_subset_holds_the_cells_of_its_rules_and_the_genes_of_its_list(stores, tmp_path):
    both = stores[2]
    counts, obs = table(both)
    (tmp_path / "genes.txt").write_text("ENSG00000000002\nENSG00000000011\nENSG00000099999\n")
    lines = []
    wishes = Wishes(where=("donor=d0,d2", "age>=6"), genes=tmp_path / "genes.txt")
    subset_store(both, tmp_path / "s", wishes, links=True, log=lines.append)
    small = CellStore.open(tmp_path / "s")
    kept = obs["donor"].isin(["d0", "d2"]).to_numpy() & (obs["age"] >= 6).to_numpy()
    genes = ["ENSG00000000002", "ENSG00000000011"]
    pd.testing.assert_frame_equal(table(small)[0], counts.loc[kept, genes])
    assert small.obs(["age"])["age"].tolist() == obs.loc[kept, "age"].tolist()
    assert list(verify_store(small.path)) == []
    assert "1 of 3 genes are not in the store, such as ENSG00000099999" in lines[0]
    assert "where donor=d0,d2, where age>=6, genes of genes.txt" in small.manifest.history[-1]


def test_named_cells_are_kept_in_the_order_of_the_store(stores, tmp_path):
    (tmp_path / "cells.txt").write_text("cell20\ncell3\nnobody\n\n")
    lines = []
    subset_store(stores[2], tmp_path / "s", Wishes(cells=tmp_path / "cells.txt"), links=True, log=lines.append)
    assert list(CellStore.open(tmp_path / "s").obs([]).index) == ["cell3", "cell20"]
    assert "1 of 3 cells are not in the store, such as nobody" in lines[0]
    (tmp_path / "cells.txt").write_text("nobody\n")
    with pytest.raises(InputError, match="none of its 1 cells is in the store"):
        subset_store(stores[2], tmp_path / "t", Wishes(cells=tmp_path / "cells.txt"), links=True, log=quiet)


def test_rules_that_leave_nothing_are_refused_and_leave_nothing(stores, tmp_path):
    with pytest.raises(InputError, match="no cell is chosen"):
        subset_store(stores[0], tmp_path / "s", Wishes(where=("age>1000",)), links=True, log=quiet)
    assert list(tmp_path.iterdir()) == []


def test_the_stores_of_a_split_merge_back_to_all_cells(stores, tmp_path):
    made = split_store(stores[2], "donor", tmp_path / "by", links=True, log=quiet)
    assert [p.name for p in made] == ["d0", "d1", "d2"]
    parts = [CellStore.open(path) for path in made]
    assert [set(p.obs_groups("donor").names) for p in parts] == [{"d0"}, {"d1"}, {"d2"}]
    both = pd.concat([table(p)[0] for p in parts]).sort_index()
    pd.testing.assert_frame_equal(both, table(stores[2])[0].sort_index())


def test_groups_get_plain_folders_of_their_own_and_missing_values_one_too(tmp_path):
    from scmf.data.memory_source import write_store

    obs = pd.DataFrame({"g": pd.Categorical(["a/b", "a b", None, "..", "missing"])}, index=list("vwxyz"))
    store = write_store(tmp_path / "s", counts=csr_matrix(np.eye(5, dtype=int)), obs=obs, gene_ids=tuple("ABCDE"))
    made = split_store(store, "g", tmp_path / "by", links=True, log=quiet)
    assert [p.name for p in made] == ["_", "a_b", "a_b-2", "missing", "missing-2"]
    assert [len(CellStore.open(p)) for p in made] == [1] * 5


def test_a_named_split_is_written_into_the_manifest_and_never_overlaps(stores, tmp_path):
    shutil.copytree(stores[2].path, tmp_path / "s")
    store = CellStore.open(tmp_path / "s")
    sizes = name_split(store, "mine", train=["donor=d0"], validation=["donor=d1"], test=[])
    assert sizes == {"train": 8, "validation": 8, "test": 0, "none": 8}
    written = CellStore.open(tmp_path / "s")
    assert written.manifest.splits["mine"].train == ("donor=d0",)
    assert written.fingerprint == store.fingerprint
    assert list(verify_store(written.path)) == []
    with pytest.raises(InputError, match="8 cells are in more than one set"):
        name_split(written, "bad", train=["donor=d0", "donor=d1"], validation=["donor=d1"], test=[])
    remove_split(written, "mine")
    assert not CellStore.open(tmp_path / "s").manifest.splits
    with pytest.raises(StoreError, match="no split 'mine'"):
        remove_split(CellStore.open(tmp_path / "s"), "mine")


def test_a_named_split_whose_sets_meet_in_cells_that_were_added_is_refused(files, stores, tmp_path):
    shutil.copytree(stores[0].path, tmp_path / "s")
    name_split(CellStore.open(tmp_path / "s"), "mine", train=["age>=15"], validation=["donor=d0"], test=[])
    assert len(named_split(CellStore.open(tmp_path / "s"), "mine").train) == 2
    add_sources(tmp_path / "s", [files[1]], OPTIONS, log=quiet)
    with pytest.raises(StoreError, match="4 cells are in more than one set of the split 'mine'; the first is cell 12"):
        named_split(CellStore.open(tmp_path / "s"), "mine")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return (caught.value.code or 0, *capsys.readouterr())


def test_a_column_that_tells_single_cells_apart_is_not_split_into_thousands_of_stores(tmp_path):
    from scmf.data.memory_source import write_store

    n, one = 60, csr_matrix(np.eye(60, dtype=int))
    obs = pd.DataFrame({"n_counts": np.arange(n) // 1.5, "age": np.arange(n) * 0.5}, index=[str(k) for k in range(n)])
    store = write_store(tmp_path / "s", counts=one, obs=obs, gene_ids=tuple(f"G{k}" for k in range(n)))
    with pytest.raises(StoreError, match="n_counts has 40 values for 60 cells"):
        split_store(store, "n_counts", tmp_path / "by", links=True, log=quiet)
    with pytest.raises(ConfigError, match="60 different measurements"):
        split_store(store, "age", tmp_path / "by", links=True, log=quiet)
    assert not (tmp_path / "by").exists()


def test_a_destination_that_is_taken_is_not_answered_with_a_flag_that_the_command_lacks(
    files, stores, tmp_path, capsys
):
    shutil.copytree(stores[0].path, tmp_path / "s")
    for words in (["merge", stores[1].path], ["subset", stores[1].path, "--where", "donor=d0"]):
        code, _, err = run(capsys, *words, "--dest", tmp_path / "s")
        assert (code, err.splitlines()[0]) == (1, "error: the destination is a store already")
        assert err.splitlines()[2] == "  fix:   name another --dest"
    _, _, err = run(capsys, "convert", files[0], "--dest", tmp_path / "s")
    assert "add --overwrite to replace it" in err


def test_the_commands_say_what_they_made(files, stores, tmp_path, capsys):
    a, b, both = (store.path for store in stores)
    shutil.copytree(a, tmp_path / "s")
    assert "24 cells x 12 genes" in run(capsys, "add", tmp_path / "s", files[1], "--cells-per-part", 5)[1]
    assert "24 cells x 12 genes" in run(capsys, "merge", a, b, "--dest", tmp_path / "m")[1]
    assert "8 cells x 12 genes" in run(capsys, "subset", both, "--where", "donor=d1", "--dest", tmp_path / "t")[1]
    assert "3 stores" in run(capsys, "split", both, "--by", "donor", "--dest", tmp_path / "by")[1]
    named = run(capsys, "name-split", tmp_path / "m", "mine", "--train", "donor=d0", "--test", "donor=d2")
    assert named[1].endswith("split mine: train 8, validation 0, test 8, none 8\n")
    assert "split        mine" in run(capsys, "info", tmp_path / "m")[1]
    code, _, err = run(capsys, "add", tmp_path / "s", files[1], "--duplicates", "drop")
    assert (code, err.splitlines()[0]) == (1, "error: add takes --duplicates report or keep, not drop")
    code, _, err = run(capsys, "name-split", tmp_path / "m", "mine")
    assert (code, err.splitlines()[0]) == (1, "error: a split needs --train")
