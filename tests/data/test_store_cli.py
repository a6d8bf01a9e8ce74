"""scmf-store as a person meets it: what it prints, exit codes, and three lines for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from scmf.data.cli import main
from scmf.data.cli_sources import parse_bytes
from scmf.data.rank import RankTokenizer
from scmf.data.vocabulary import load_vocabulary


@pytest.fixture
def run(capsys):
    """Run the command in this process; returns its exit code, stdout and stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        return (caught.value.code or 0, *capsys.readouterr())

    return call


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
    import shutil

    assert run("verify", demo_store.path)[:2] == (0, f"{demo_store.path}: sound\n")
    shutil.copytree(demo_store.path, tmp_path / "s")
    (tmp_path / "s" / "part-00001" / "X" / "zarr.json").unlink()
    (tmp_path / "s" / "part-00002" / "X" / "zarr.json").write_text("{}")
    code, out, err = run("verify", tmp_path / "s")
    assert code == 1
    assert [line.split(":")[0] for line in out.splitlines()] == ["part-00001/X/zarr.json", "part-00002/X/zarr.json"]
    assert err == f"2 faults in {tmp_path}/s\n"


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
