"""Files as people bring them: what is taken for counts and for genes, and where a store may be put."""

from __future__ import annotations

import csv
import gzip
import os
import re
import shlex
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import InputError, StoreError, describe_os_error
from scmf.data.cli import store_command
from scmf.data.edit.add import add_sources
from scmf.data.ingest.convert import convert
from scmf.data.ingest.inspection import inspect_sources
from scmf.data.ingest.plan import ConvertOptions, Request
from scmf.data.ingest.table import zarr_names
from scmf.data.ingest.text_file import is_blank_table
from scmf.data.sequences.recognise import sort_of
from scmf.data.store import CellStore
from scmf.data.verify import verify_store
from support import zoo


@pytest.fixture(autouse=True)
def gene_tables_stay(monkeypatch):
    """Planning lets go of the gene tables, for the sake of memory; here they would be read for every test again."""
    monkeypatch.setattr("scmf.data.ingest.inspection.release_tables", lambda: None)


def to_store(sources, dest, **wishes):
    lines = []
    sources = sources if isinstance(sources, list) else [sources]
    convert(sources, dest, ConvertOptions().changed(**wishes), log=lines.append)
    return CellStore.open(dest), lines


def refusal(source, dest, **wishes):
    with pytest.raises(InputError) as caught:
        to_store(source, dest, **wishes)
    assert not dest.exists()
    return caught.value


def found_in(*sources, **wishes):
    return inspect_sources(Request(sources, ConvertOptions().changed(**wishes))).findings


def with_layers(path, *names):
    """Normalised X, and counts in layers of these names, the last with the most values."""
    cells = zoo.cells(csr_matrix(zoo.lognormal(zoo.counts())))
    for k, name in enumerate(names):
        counts = zoo.counts(seed=k)
        counts[: 20 - k] = 0
        cells.layers[name] = csr_matrix(counts)
    return zoo.write(path, cells)


def test_layers_that_are_each_a_part_of_the_counts_are_not_chosen_among(tmp_path):
    path = with_layers(tmp_path / "a.h5ad", "ambiguous", "unspliced", "spliced")
    error = refusal(path, tmp_path / "s")
    assert str(error).startswith("SCMF-D054: 3 layers hold counts")
    assert error.fix == f"scmf-store convert {path} --dest {tmp_path / 's'} --counts layers/spliced"
    assert {f.number for f in found_in(path) if f.severity == "error"} == {"D054"}
    (wrong,) = [f for f in found_in(path, counts="X") if f.number == "D008"]
    assert wrong.fix.endswith("--counts layers/spliced")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("spliced", "counts", "raw_counts"), "counts"),
        (("ambiguous", "raw_counts"), "raw_counts"),
        (("spliced", "my_counts"), "my_counts"),
        (("spliced",), "spliced"),
    ],
)
def test_a_layer_that_is_called_counts_is_taken_before_others(tmp_path, names, chosen):
    _, lines = to_store(with_layers(tmp_path / "a.h5ad", *names), tmp_path / "s")
    assert any(f"counts: layers/{chosen} (" in line for line in lines)


def cells_with_antibodies(path, kinds=("Gene Expression", "Antibody Capture")):
    """As scanpy reads a file of 10x: ten antibodies have the symbols of ten of the genes."""
    symbols = zoo.genes()[1]
    cells = zoo.cells(ids=[*symbols[:50], *symbols[:10]], symbols=False)
    cells.var["gene_ids"] = [*zoo.genes()[0][:50], *symbols[:10]]
    cells.var["feature_types"] = [kinds[0]] * 50 + [kinds[1]] * 10
    return zoo.write(path, cells)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.filterwarnings("ignore:zarr v3 autosharding will be the default")
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
@pytest.mark.parametrize("wishes", [{}, {"map_names": True}], ids=["own ids", "mapped"])
def test_antibodies_in_anndata_are_not_added_to_the_genes_whose_symbols_they_have(tmp_path, name, wishes):
    store, lines = to_store(cells_with_antibodies(tmp_path / name), tmp_path / "s", **wishes)
    assert any("50 Gene Expression features are kept; 10 Antibody Capture are no genes" in line for line in lines)
    batch = store.fetch(range(40))
    kept = csr_matrix((batch.counts, batch.indices, batch.indptr), shape=(40, store.n_genes)).toarray()
    np.testing.assert_array_equal(kept, zoo.counts()[:, :50])
    assert store.gene_ids == zoo.genes()[0][:50]


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_antibodies_alone_are_refused_and_other_meanings_of_the_column_are_none_of_ours(tmp_path):
    only = cells_with_antibodies(tmp_path / "a.h5ad", ("Antibody Capture", "Custom"))
    error = refusal(only, tmp_path / "s", map_names=True)
    assert str(error).startswith("SCMF-D012: no feature is Gene Expression")
    store, _ = to_store(cells_with_antibodies(tmp_path / "b.h5ad", ("protein_coding", "lncRNA")), tmp_path / "b")
    assert store.manifest.sources[0].other_features == 0


def test_samples_of_cell_ranger_are_told_apart_though_all_their_files_and_folders_have_one_name(tmp_path):
    paths = [tmp_path / sample / "outs" / "matrix.h5ad" for sample in ("a", "b")]
    for k, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        zoo.write(path, zoo.cells(csr_matrix(zoo.counts(seed=k))))
    other = zoo.write(tmp_path / "c.h5ad", zoo.cells(csr_matrix(zoo.counts(seed=9))))
    store, _ = to_store([*paths, other], tmp_path / "s")
    assert [source.name for source in store.manifest.sources] == ["a/outs/matrix.h5ad", "b/outs/matrix.h5ad", "c.h5ad"]
    assert store.obs(["scmf_source"])["scmf_source"].value_counts().to_dict() == dict.fromkeys(
        ["a/outs/matrix.h5ad", "b/outs/matrix.h5ad", "c.h5ad"], 40
    )


def test_no_column_of_obs_is_lost_to_one_of_ours_or_to_another_with_a_slash(tmp_path):
    cells = zoo.cells()
    cells.obs["scmf_source"] = cells.obs["scmf_source_1"] = "of an earlier store"
    store, _ = to_store(zoo.write(tmp_path / "a.h5ad", cells), tmp_path / "s")
    assert set(store.obs(["scmf_source_2"])["scmf_source_2"]) == {"of an earlier store"}
    assert set(store.obs(["scmf_source"])["scmf_source"]) == {"a.h5ad"}
    assert zarr_names(["a/b", "x", "a_b", "a/b_2", "a_b_2"]) == {
        "a/b": "a_b_3",
        "x": "x",
        "a_b": "a_b",
        "a/b_2": "a_b_2_2",
        "a_b_2": "a_b_2",
    }


def test_a_store_is_not_made_inside_what_it_is_made_of_nor_inside_another_store(tmp_path):
    source = zoo.write_mtx(tmp_path / "run", zoo.counts())
    (tmp_path / "link").symlink_to(source)
    for dest in (source, source / "new" / "s", tmp_path / "link" / "s"):
        with pytest.raises(StoreError, match="inside the source"):
            to_store(source, dest)
    assert len(list(source.iterdir())) == 3
    to_store(source, tmp_path / "whole")
    with pytest.raises(StoreError, match="the destination is inside the store"):
        to_store(source, tmp_path / "whole" / "part-00000" / "s")
    assert list(verify_store(tmp_path / "whole")) == []


def test_bytes_that_are_in_a_store_are_not_added_again_whatever_they_are_called_now(tmp_path):
    first = zoo.write(tmp_path / "a.h5ad", zoo.cells())
    (tmp_path / "b").mkdir()
    other = zoo.write(tmp_path / "b" / "a.h5ad", zoo.cells(csr_matrix(zoo.counts(seed=5))))
    to_store([first, other], tmp_path / "s")
    for name in ("a.h5ad", "renamed.h5ad"):
        path = first.rename(tmp_path / name)
        with pytest.raises(InputError, match="the store has the cells of this source already"):
            add_sources(tmp_path / "s", [path], ConvertOptions(), log=lambda _: None)
        first = path


def test_mouse_cells_are_added_to_a_human_store_by_the_command_that_the_refusal_gives(tmp_path, run):
    to_store(zoo.write(tmp_path / "h.h5ad", zoo.cells()), tmp_path / "s")
    mouse = zoo.write(tmp_path / "m.h5ad", zoo.cells(ids=zoo.genes("mouse")[0], symbols=False))
    with pytest.raises(InputError) as caught:
        add_sources(tmp_path / "s", [mouse], ConvertOptions(), log=lambda _: None)
    assert run(*shlex.split(caught.value.fix)[1:])[0] == 0
    (finding,) = [f for f in CellStore.open(tmp_path / "s").manifest.sources[1].findings if "D029" in f.number]
    assert "or without exactly one ortholog" in finding.what


def write_blanks(path, counts):
    """As R's write.table does by default: quoted names, blanks between, no name above the names of the rows."""
    table = pd.DataFrame(counts.T.astype(int), index=zoo.genes()[0], columns=[f"{b} x" for b in zoo.barcodes()])
    text = table.to_csv(sep=" ", quoting=csv.QUOTE_NONNUMERIC)
    path.write_text(text.removeprefix('"" '))


def test_a_table_of_r_with_blanks_between_its_fields_is_counts_and_no_text(tmp_path, run):
    write_blanks(tmp_path / "counts.txt", zoo.counts())
    assert run("convert", tmp_path / "counts.txt", "--dest", tmp_path / "s")[0] == 0
    store = CellStore.open(tmp_path / "s")
    batch = store.fetch(range(40))
    kept = csr_matrix((batch.counts, batch.indices, batch.indptr), shape=(40, 60)).toarray()
    np.testing.assert_array_equal(kept, zoo.counts())
    assert list(store.obs(["scmf_source"]).index[:2]) == [f"{b} x" for b in zoo.barcodes()[:2]]


@pytest.mark.parametrize(
    "text",
    ["just words\nand more\n", "1 2\n", "a b\nc 1 2 3\n", "a b\nc 1 x\nd 1 2\n", "the year\nsince 1984\nand so on\n"],
)
def test_text_is_no_table_of_blanks(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert not is_blank_table(tmp_path / "a.txt")


def test_names_that_hold_an_ensembl_id_are_told_to_be_mapped_and_are(tmp_path, run):
    ids, symbols = zoo.genes()
    for k, names in enumerate(([f"{i}_{s}" for i, s in zip(ids, symbols, strict=True)], [f"X|{i}.3" for i in ids])):
        path = zoo.write(tmp_path / f"{k}.h5ad", zoo.cells(ids=names, symbols=False))
        fix = refusal(path, tmp_path / f"s{k}").fix
        assert fix.endswith("--gene-ids map")
        assert run(*shlex.split(fix)[1:])[0] == 0
        assert CellStore.open(tmp_path / f"s{k}").gene_ids == ids


def test_rows_of_anndata_that_are_named_by_a_column_that_is_gone_say_so(tmp_path):
    path = zoo.write(tmp_path / "a.h5ad", zoo.cells())
    with h5py.File(path, "r+") as file:
        file["var"].move("_index", "features")
    error = refusal(path, tmp_path / "s")
    assert str(error).startswith("SCMF-D002: var cannot be read: the names of its rows should be in '_index'")


def test_donors_may_be_called_anything(tmp_path, run):
    cells = zoo.cells()
    donors = ["../../etc/passwd", "x" * 300, "x" * 299 + "y", "two\nlines"]
    cells.obs["donor"] = donors * 10
    to_store(zoo.write(tmp_path / "a.h5ad", cells), tmp_path / "s")
    code, out, _ = run("split", tmp_path / "s", "--by", "donor", "--dest", tmp_path / "d" / "e")
    assert (code, len(out.splitlines())) == (0, 5)
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["e"]
    code, _, err = run("split", tmp_path / "s", "--by", "donor", "--dest", tmp_path / "s" / "e")
    assert (code, "inside the store" in err, list(verify_store(tmp_path / "s"))) == (1, True, [])
    made = {str(CellStore.open(p).obs(["donor"])["donor"].iloc[0]) for p in (tmp_path / "d" / "e").iterdir()}
    assert made == set(donors)


def test_a_table_whose_cells_in_was_the_wrong_way_round_is_told_to_go_without_it(tmp_path):
    path = zoo.write_csv(tmp_path / "a.csv", zoo.counts())
    (finding,) = [f for f in found_in(path, cells_in="columns") if f.number == "D043"]
    assert finding.fix == f"scmf-store check {path}"


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        (
            "decimal commas",
            lambda t: t.replace(",", ";").replace(";3;", ";3,0;"),
            "where the comma is the decimal sign: ",
        ),
        ("a column of symbols", lambda t: re.sub(r"(?m)^([^,]*),", r"\1,S1,", t), "take that column out: "),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_not_counts_in_a_table_is_taken_out_by_the_command_of_the_refusal(tmp_path, name, change, line, packed):
    path = zoo.write_csv(
        tmp_path / "my table.csv", zoo.counts().astype(int).T, ids=zoo.barcodes(), names=zoo.genes()[0]
    )
    text = change(path.read_text())
    if packed:
        path = path.rename(tmp_path / "my table.csv.gz")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    fix = refusal(path, tmp_path / "s").fix
    assert fix.startswith(line), name
    subprocess.run(["bash", "-ec", fix.removeprefix(line)], check=True)  # as a user pastes it
    store, _ = to_store(tmp_path / "my table.counts.csv", tmp_path / "s")
    assert store.manifest.n_values == np.count_nonzero(zoo.counts())


def test_a_pipe_and_a_link_that_leads_nowhere_or_in_circles_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5ad")
    (tmp_path / "dead.h5ad").symlink_to("gone.h5ad")
    (tmp_path / "circle").symlink_to("circle")
    paths = [tmp_path / name for name in ("pipe.h5ad", "dead.h5ad", "circle")]
    found = found_in(*paths)
    assert [f.number for f in found] == ["D001"] * 3
    assert [f.what.partition(",")[0] for f in found] == ["a pipe or device", "a link to gone.h5ad", "a link to circle"]
    assert sort_of(paths[:1], as_text=False) == "cells"
    with pytest.raises(InputError, match="a link to gone"):
        sort_of(paths[1:2], as_text=False)


@pytest.mark.parametrize(
    ("address", "fix"),
    [
        ("https://x.org/a b.h5ad", "download it, and name what has come: curl -LO 'https://x.org/a b.h5ad'"),
        ("s3://bucket/a.h5ad", "download it, and name what has come"),
        ("a.h5ad", "Check the path for a typing error."),
    ],
)
def test_an_address_is_told_from_a_file_that_is_missing(address, fix):
    (finding,) = found_in(Path(address))
    assert (finding.number, finding.mend) == ("D001", fix)


@pytest.mark.parametrize("cells_in", ["rows", "columns"])
@pytest.mark.parametrize("without", ["header", "names"])
@pytest.mark.parametrize("sep", [",", "\t"])
def test_counts_are_not_taken_for_the_names_that_a_table_lacks(tmp_path, cells_in, without, sep):
    table = pd.DataFrame(zoo.counts().astype(int), index=zoo.barcodes(), columns=list(zoo.genes()[0]))
    table = table if cells_in == "rows" else table.T
    table.to_csv(tmp_path / "a b.csv", sep=sep, header=without != "header", index=without != "names")
    error = refusal(tmp_path / "a b.csv", tmp_path / "s")
    assert {"header": "the first line is no header", "names": "the rows have no names"}[without] in str(error)
    subprocess.run(["bash", "-ec", error.fix.partition(": ")[2]], check=True)
    said = {} if (cells_in == "rows") == (without == "names") else {"cells_in": cells_in, "id_space": "symbols"}
    store, _ = to_store(tmp_path / "a b.counts.csv", tmp_path / "s", **said)
    assert store.manifest.n_values == np.count_nonzero(zoo.counts())


def test_numbered_cells_and_genes_are_names(tmp_path):
    table = pd.DataFrame(zoo.counts().astype(int), index=range(40), columns=list(zoo.genes()[0]))
    table.to_csv(tmp_path / "a.csv")
    store, _ = to_store(tmp_path / "a.csv", tmp_path / "s")
    assert list(store.obs(["scmf_source"]).index) == [str(k) for k in range(40)]


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_findings_are_three_lines_whatever_cells_are_called(tmp_path):
    names = zoo.barcodes()
    names[3] = names[4] = "two\nlines"
    (finding,) = found_in(zoo.write(tmp_path / "a.h5ad", zoo.cells(obs=pd.DataFrame(index=names))))
    assert (finding.number, len(str(finding).splitlines())) == ("D027", 3)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    to_store(zoo.write(tmp_path / "a.h5ad", zoo.cells()), tmp_path / "s")
    (tmp_path / ".v.parquet.partial").symlink_to("no folder/v")
    with pytest.raises(FileNotFoundError) as caught:
        store_command(
            ["tokens", str(tmp_path / "s"), "--vocabulary", "geneformer-v1", "--out", f"{tmp_path}/v.parquet"]
        )
    assert describe_os_error(caught.value).where == str(tmp_path / "v.parquet")


def test_a_list_of_cells_that_a_spreadsheet_wrote_is_read_after_the_command_of_its_refusal(tmp_path, run):
    to_store(zoo.write(tmp_path / "a.h5ad", zoo.cells()), tmp_path / "s")
    (tmp_path / "my cells.txt").write_text("\r\n".join(zoo.barcodes()[:3]), encoding="utf-16")
    code, _, err = run("subset", tmp_path / "s", "--cells", tmp_path / "my cells.txt", "--dest", tmp_path / "t")
    assert (code, len(err.splitlines())) == (1, 3)
    subprocess.run(["bash", "-ec", err.splitlines()[2].partition("write: ")[2]], check=True)
    assert run("subset", tmp_path / "s", "--cells", tmp_path / "my cells.utf8.txt", "--dest", tmp_path / "t")[0] == 0
    assert len(CellStore.open(tmp_path / "t")) == 3


def test_seen_of_a_file_that_is_not_there_says_no_more_than_that(tmp_path, run):
    to_store(zoo.write(tmp_path / "a.h5ad", zoo.cells()), tmp_path / "s")
    assert run("ledger", tmp_path / "s", "--out", tmp_path / "l.ledger")[0] == 0
    code, _, err = run("seen", tmp_path / "none", "--ledger", tmp_path / "l.ledger")
    assert (code, err.splitlines()[2]) == (1, "  fix:   Check the path for a typing error.")
