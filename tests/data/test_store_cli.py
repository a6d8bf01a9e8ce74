"""scmf-store as a person meets it: what it prints, exit codes, and three lines for every mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow.parquet as pq
import pytest

from scmf.data.cli_sources import parse_bytes
from scmf.data.page import write_page
from scmf.data.rank import RankTokenizer
from scmf.data.store import CellStore
from scmf.data.vocabulary import load_vocabulary


def test_convert_says_what_it_chose_and_how_to_go_on(run, tmp_path, demo_h5ad):
    code, out, _ = run("convert", demo_h5ad, "--dest", tmp_path / "s")
    assert code == 0
    assert "counts: X (integers 1 to" in out
    assert "var column index; 28,196 of 28,258 columns have an id" in out
    assert "every value checked; 1,344,934 counts kept, 99.73% of all molecules" in out
    assert f"scmf-store info {tmp_path}/s" in out.splitlines()[-1]


def test_info_prints_the_facts_for_people_and_for_programs(run, demo_store):
    code, out, _ = run("info", demo_store.path)
    assert code == 0
    assert "cells        210" in out
    facts = json.loads(run("info", demo_store.path, "--json")[1])
    assert facts["n_values"] == sum(len(p.data) for p in demo_store.parts)
    assert facts["fingerprint"] == demo_store.fingerprint
    assert facts["sources"][0]["genes_without_id"] == 62


def test_verify_is_zero_for_a_sound_store_and_one_with_a_line_a_fault(run, demo_store, tmp_path):
    assert run("verify", demo_store.path)[:2] == (0, f"{demo_store.path}: sound\n")
    shutil.copytree(demo_store.path, tmp_path / "s")
    (tmp_path / "s" / "part-00001" / "X" / "zarr.json").unlink()
    (tmp_path / "s" / "part-00002" / "X" / "zarr.json").write_text("{}")
    code, out, err = run("verify", tmp_path / "s")
    assert code == 1
    assert [line.split(":")[0] for line in out.splitlines()] == ["part-00001/X/zarr.json", "part-00002/X/zarr.json"]
    assert err.startswith(f"error: 2 faults\n  where: {tmp_path}/s\n  fix:   bring the files named above back")


def test_bench_measures_three_patterns_and_says_what_they_leave_out(run, demo_store, monkeypatch):
    monkeypatch.setattr("scmf.data.bench.bench_store.__kwdefaults__", {"seconds": 0.05})
    report = json.loads(run("bench", demo_store.path, "--json")[1])
    assert [r["pattern"] for r in report["rates"]] == [
        "random cells, cold",
        "random cells, warm",
        "blocks of 16 cells, warm",
    ]
    assert all(r["cells_per_s"] > 100 and r["cells"] >= 64 for r in report["rates"])
    assert any("one thread" in note for note in report["notes"])


@pytest.mark.parametrize(("name", "seq_length"), [("geneformer-v1", 2048), ("geneformer-v2", 4096)])
def test_tokens_writes_every_cell_as_the_tokenizer_gives_it(run, demo_store, tmp_path, name, seq_length):
    out = tmp_path / "tokens.parquet"
    assert run("tokens", demo_store.path, "--vocabulary", name, "--out", out)[0] == 0
    table = pq.read_table(out)
    expected = RankTokenizer(load_vocabulary(name), gene_ids=demo_store.gene_ids, seq_length=seq_length).encode(
        demo_store, np.arange(210)
    )
    assert table.column_names == ["cell_id", "length", "input_ids"]
    assert table["cell_id"].to_pylist() == list(range(210))
    assert table["length"].to_pylist() == expected.lengths.tolist()
    assert table["input_ids"].to_pylist() == [expected.of(k).tolist() for k in range(210)]
    assert table.schema.metadata[b"scmf.store"].decode() == demo_store.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["tokens.parquet"]
    code, _, err = run("tokens", demo_store.path, "--vocabulary", name, "--out", out)
    assert (code, err.splitlines()[0]) == (1, "error: the output file exists")


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        pytest.param(
            ["convert", "{tmp}/none.h5ad", "--dest", "{tmp}/s"], "SCMF-D001: there is no such file", id="missing"
        ),
        pytest.param(["convert", "{tmp}", "--dest", "{tmp}/s"], "SCMF-D001: the folder holds nothing", id="folder"),
        pytest.param(["convert", "{tmp}/a.csv", "--dest", "{tmp}/s"], "SCMF-D004: the table has no row", id="text"),
        pytest.param(["convert", "{demo}"], "the following arguments are required: --dest", id="no destination"),
        pytest.param(["convert", "{demo}", "--dest", "{tmp}/s", "--memory", "lots"], "argument --memory", id="memory"),
        pytest.param(["convert", "{demo}", "--dest", "{tmp}/a.csv"], "the destination is not a folder", id="dest file"),
        pytest.param(
            ["convert", "{demo}", "--dest", "{tmp}/s", "--cells-per-part", "0"], "argument --cells", id="parts"
        ),
        pytest.param(["info", "{tmp}/none"], "there is no such store", id="no store"),
        pytest.param(["info", "{tmp}"], "this folder is not a cell store", id="no manifest"),
        pytest.param(["verify", "{tmp}"], "this folder is not a cell store", id="verify nothing"),
        pytest.param(["melt"], "argument COMMAND: invalid choice", id="unknown command"),
        pytest.param([], "the following arguments are required: COMMAND", id="no command"),
    ],
)
def test_a_mistake_is_three_lines_and_exit_code_one(run, tmp_path, demo_h5ad, arguments, first):
    (tmp_path / "a.csv").write_text("a,b\n")
    code, out, err = run(*(a.format(tmp=tmp_path, demo=demo_h5ad) for a in arguments))
    lines = err.splitlines()
    assert (code, out) == (1, "")
    assert lines[0].startswith(f"error: {first}")
    assert [line.split(":")[0] for line in lines[1:]] == ["  where", "  fix"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("command", [[], ["convert"], ["info"], ["verify"], ["bench"], ["tokens"]])
def test_help_has_an_example(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert f"scmf-store {' '.join(command) or 'convert'}" in out[out.index("examples:") :]


def test_help_imports_nothing_heavy():
    heavy = {"numpy", "numba", "anndata", "zarr", "h5py", "pydantic"}
    code = (
        "import sys\nfrom scmf.data.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('imported:', {heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported: set()"


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("512MiB", 2**29), ("1000000", 10**6), ("1.5g", 15 * 10**8)]
)
def test_memory_is_read_in_decimal_and_binary_units(text, size):
    assert parse_bytes(text) == size


def test_info_of_a_damaged_store_is_an_error(run, demo_store, tmp_path):
    shutil.copytree(demo_store.path, tmp_path / "s")
    (tmp_path / "s" / "part-00001" / "X" / "data" / "c" / "0").unlink()
    code, out, err = run("info", tmp_path / "s")
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == "error: the array's file is missing"


def test_info_writes_a_page_that_needs_nothing_else(run, demo_store, tmp_path):
    code, out, _ = run("info", demo_store.path, "--html", tmp_path / "cells.html")
    page = (tmp_path / "cells.html").read_text()
    assert code == 0
    assert out.endswith(f"{tmp_path}/cells.html: a page with plots\n")
    ET.fromstring(page.removeprefix("<!doctype html>\n").replace('<meta charset="utf-8">', ""))  # noqa: S314  # our own page
    assert not re.search(r"<script|https?:|src=|@import|url\(", page)
    for section in ("Genes per cell", "Library size", "Genes with the most counts", "Cells by cell_line", "Findings"):
        assert f"<h2>{section}" in page
    lines = demo_store.obs_groups("cell_line")
    for code_of, name in enumerate(lines.names):
        cells = int((lines.codes == code_of).sum())
        assert f"{name}: {cells:,} ({cells / 210:.1%})" in page
    sums = np.bincount(
        np.concatenate([p.indices for p in demo_store.parts]), np.concatenate([p.data for p in demo_store.parts])
    )
    top = demo_store.gene_ids[int(sums.argmax())]
    assert page.index(top) == min(page.index(g) for g in demo_store.gene_ids if g in page)
    totals = np.concatenate([np.add.reduceat(p.data.astype(np.int64), p.indptr[:-1]) for p in demo_store.parts])
    shown = [int(text.replace(",", "")) for text in re.findall(r"([\d,]+) to [\d,]+ counts: ", page)]
    assert totals.min() / 1.1 < shown[0] <= totals.min() + 1
    assert totals.max() / 1.1 < shown[-1] <= totals.max() + 1
    lengths = np.concatenate([np.diff(p.indptr) for p in demo_store.parts])
    assert f"mean {lengths.mean():,.0f}, {lengths.min():,} to {lengths.max():,}" in page
    assert run("info", demo_store.path, "--html", tmp_path / "no" / "cells.html")[0] == 1


def test_a_page_of_a_store_without_histograms_is_drawn_from_its_cells(demo_store, tmp_path):
    bare = demo_store.manifest.replace(length_histogram=None, library_histogram=None)
    write_page(CellStore(demo_store.path, bare, demo_store.parts), tmp_path / "bare.html")
    write_page(demo_store, tmp_path / "full.html")
    assert (tmp_path / "bare.html").read_text() == (tmp_path / "full.html").read_text()


@pytest.mark.parametrize(
    ("path", "what", "fix"),
    [
        pytest.param(
            "{store}/part-00000", "this folder is inside the store {store}", "name the store: {store}", id="part"
        ),
        pytest.param("{tmp}/a file.h5ad", "this is a file", "scmf-store convert '{tmp}/a file.h5ad' --dest", id="file"),
        pytest.param("{tmp}/all", "this folder is not a cell store", "name one of the stores in it: mine", id="parent"),
        pytest.param("{tmp}/thesis", "this folder is not a cell store", "check the path", id="foreign"),
        pytest.param("{tmp}/none", "there is no such store", "Check the path", id="missing"),
    ],
)
def test_a_path_that_is_no_store_is_answered_with_the_one_that_was_meant(run, demo_store, tmp_path, path, what, fix):
    (tmp_path / "a file.h5ad").write_text("")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "all" / "mine").mkdir(parents=True)
    (tmp_path / "all" / "mine" / "manifest.json").write_text("")
    names = {"store": demo_store.path, "tmp": tmp_path}
    for command in ("info", "verify"):
        lines = run(command, path.format(**names))[2].splitlines()
        assert lines[0].startswith("error: " + what.format(**names))
        assert fix.format(**names) in lines[2]


@pytest.mark.parametrize(
    ("out", "what", "fix"),
    [
        pytest.param(
            "x.csv", "tokens are written as parquet, and the name has .csv", "--out {tmp}/x.parquet", id="csv"
        ),
        pytest.param("no/x.parquet", "there is no such folder", "mkdir -p {tmp}/no", id="no folder"),
        pytest.param("d.parquet", "the output is a folder", "name a file", id="folder"),
    ],
)
def test_tokens_says_what_is_wrong_with_the_file_to_make(run, demo_store, tmp_path, out, what, fix):
    (tmp_path / "d.parquet").mkdir()
    lines = run("tokens", demo_store.path, "--vocabulary", "geneformer-v2", "--out", tmp_path / out)[2].splitlines()
    assert lines[0] == f"error: {what}"
    assert fix.format(tmp=tmp_path) in lines[2]


def test_flags_of_tokens_vocabulary_name_split_and_shuffle_quality_are_obeyed(run, demo_store, tmp_path):
    store, out = shutil.copytree(demo_store.path, tmp_path / "s"), tmp_path / "v.parquet"
    assert run("vocabulary", store, "--out", out, "--framed")[0] == 0
    assert load_vocabulary(str(out)).framed
    assert run("tokens", store, "--vocabulary", out, "--seq-length", 64, "--out", tmp_path / "t.parquet")[0] == 0
    assert pq.read_table(tmp_path / "t.parquet").column("length").unique().to_pylist() == [64]
    assert run("name-split", store, "mine", "--train", "batch=celseq2", "--validation", "batch=dropseq")[0] == 0
    assert run("name-split", store, "mine", "--remove")[1] == f"{store}: split mine removed\n"
    assert not CellStore.open(store).manifest.splits
    quality = ("shuffle-quality", store, "--by", "batch", "--batch-size", 16, "--seed")
    assert run(*quality, 1)[1] == run(*quality, 1)[1] != run(*quality, 2)[1]
