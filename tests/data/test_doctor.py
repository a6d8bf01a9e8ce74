"""scmf-store check: what it prints and returns, what is recognised, and what conversion makes of the findings."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix

from scmf.core.errors import InputError
from scmf.data.cli import store_command
from scmf.data.ingest.findings import FINDINGS, finding_of, refuse
from scmf.data.ingest.inspection import inspect_sources
from scmf.data.ingest.name_space import space_of
from scmf.data.ingest.plan import ConvertOptions, Request
from scmf.data.ingest.survey import WINDOW_CELLS, WINDOWS
from scmf.data.ingest.transforms import recognise
from scmf.data.manifest import read_manifest
from support import zoo

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"
LARGE = 3 * WINDOWS * WINDOW_CELLS


def test_the_page_has_the_table_of_the_code_and_no_other():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| SCMF-D") and line.count("|") == 5]
    assert rows == [f"| SCMF-{n} | {k.severity} | {k.meaning} | {k.fix} |" for n, k in sorted(FINDINGS.items())]


def test_every_key_of_the_json_is_on_the_page(run, demo_h5ad):
    report = json.loads(run("check", demo_h5ad, "--json")[1])
    text = PAGE.read_text()
    keys = {*report, *report["sources"][0], *report["findings"][0], "cell", "gene", "value", "molecules"}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []
    assert report["version"] == 1


def test_notes_and_warnings_leave_exit_code_zero_and_errors_one(run, tmp_path, demo_h5ad):
    code, out, err = run("check", demo_h5ad)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("1 source: 0 errors, 0 warnings, 2 notes; convert with: scmf-store convert ")
    x = zoo.counts()
    x[4] = 0
    warned, refused = tmp_path / "w.h5ad", tmp_path / "r.h5ad"
    zoo.write(warned, zoo.cells(x))
    zoo.write(refused, zoo.cells(-x))
    assert run("check", warned)[0] == 0
    code, out, _ = run("check", warned, refused)
    assert (code, out.splitlines()[-1]) == (1, "2 sources: 1 error, 1 warning, 1 note; conversion would refuse")


def test_a_report_for_programs_is_json_whatever_the_values_are(run, tmp_path):
    x = zoo.counts()
    x[0, 0], x[1, 1] = np.nan, np.inf
    zoo.write(tmp_path / "a.h5ad", zoo.cells(x))
    code, out, _ = run("check", tmp_path / "a.h5ad", tmp_path / "none.h5ad", "--json")
    report = json.loads(out, parse_constant=pytest.fail)
    first, missing = report["findings"]
    assert (code, report["errors"], report["sources"][1]["format"]) == (1, 2, None)
    assert (first["number"], first["count"], missing["number"]) == ("SCMF-D007", 2, "SCMF-D001")
    assert [o["value"] for o in first["offenders"]] == ["nan", "inf"]
    assert first["offenders"][0]["cell"] == zoo.barcodes()[0]


def test_conversion_says_every_finding_and_keeps_them_in_the_manifest(run, tmp_path):
    x = zoo.counts()
    x[4] = 0
    path = zoo.write(tmp_path / "a.h5ad", zoo.cells(csr_matrix(x), ids=[f"{i}.1" for i in zoo.genes()[0]]))
    code, out, _ = run("convert", path, "--dest", tmp_path / "s")
    assert code == 0
    assert "  note:   SCMF-D052: 60 ids with a version" in out.splitlines()
    assert f"warning: SCMF-D023: 1 cell of 40 cells without a count: cell {zoo.barcodes()[4]}" in out.splitlines()
    (source,) = read_manifest(tmp_path / "s").sources
    kept = [(f.number, f.severity, f.count) for f in source.findings]
    assert sorted(kept) == [("SCMF-D023", "warning", 1), ("SCMF-D052", "note", None)]


def large(x=None):
    """More cells than the windows take in, one of them with a negative count where no window is."""
    x = zoo.counts(LARGE) if x is None else x
    x[LARGE // 5, 3] = -1
    return x


def test_a_full_look_finds_what_windows_miss_and_each_says_what_it_saw(run, tmp_path):
    path = zoo.write(tmp_path / "a.h5ad", zoo.cells(csr_matrix(large())))
    found = inspect_sources(Request((path,), ConvertOptions()), full=True)
    assert [f.number for f in found.findings if f.severity == "error"] == ["D006"]
    assert found.sources[0].seen.complete
    path = zoo.write(tmp_path / "b.h5ad", zoo.cells(csr_matrix(np.abs(large()))))
    assert f"  looked: at 1,024 of {LARGE:,} cells; --full looks at all" in run("check", path)[1]
    assert f"  looked: at every value of all {LARGE:,} cells" in run("check", path, "--full")[1]


def test_a_large_csc_matrix_is_looked_at_by_values_only_and_that_is_said(run, tmp_path, monkeypatch):
    monkeypatch.setattr("scmf.data.ingest.survey._TURNED_VALUES", 100)
    path = zoo.write(tmp_path / "a.h5ad", zoo.cells(csc_matrix(zoo.counts())))
    assert "at no whole cells; --full looks at all" in run("check", path)[1]
    assert "at every value of all 40 cells" in run("check", path, "--full")[1]


def test_a_fault_that_the_look_misses_is_refused_while_it_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("scmf.data.ingest.counts._WINDOW_VALUES", 64)
    path = zoo.write(tmp_path / "a.h5ad", zoo.cells(csr_matrix(large())))
    assert store_command(["check", str(path)]) == 0
    with pytest.raises(InputError, match=r"^SCMF-D006: X holds negative values: -1 \(cell "):
        store_command(["convert", str(path), "--dest", str(tmp_path / "s")])


def test_a_check_writes_nothing(tmp_path):
    path = zoo.write(tmp_path / "a.h5ad", zoo.cells(csc_matrix(zoo.counts())))
    zoo.write_mtx(tmp_path / "m", zoo.counts())
    before = sorted(tmp_path.rglob("*"))
    assert store_command(["check", str(path), str(tmp_path / "m"), "--full"]) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_misspelt_flag_of_conversion_is_answered_with_the_whole_command(run):
    code, _, err = run("convert", "my cells.h5ad", "--dst", "out")
    assert code == 1
    assert err.splitlines()[-1] == "  fix:   scmf-store convert 'my cells.h5ad' --dest out"


def test_an_error_of_a_reader_becomes_the_finding_that_raises_it_again():
    error = refuse("D016", "the end is missing: 3 bytes", where="a b.h5ad: layers/x", fix="get it again")
    finding = finding_of(error, file="a b.h5ad")
    assert (finding.number, finding.element, finding.mend) == ("D016", "layers/x", "get it again")
    assert str(finding.error()) == str(error)
    with pytest.raises(InputError, match="no number"):
        finding_of(InputError("no number", where="x", fix="y"), file="x")


@pytest.mark.parametrize(
    ("names", "space"),
    [
        (["ENSG00000141510", "ENSG00000141510.16", "TP53"], "ensembl"),
        (["ENST00000269305.9", "ENST00000269306"], "transcript"),
        (["ENSP00000269305", "ENSMUSP00000269306"], "transcript"),
        (["NM_000546.6", "XR_001737.1"], "transcript"),
        (["1007_s_at", "1053_at"], "probe"),
        (["ILMN_1762337", "ILMN_2055271"], "probe"),
        (["ENSG00000000003|TSPAN6|8eab823", "ENSG00000000005|TNMD|7a1c99b"], "probe"),
        (["GRCh38_ENSG00000141510", "mm10___Trp53"], "prefixed"),
        (["7157", "672", "675"], "entrez"),
        (["GeneID:7157", "GeneID:672"], "entrez"),
        (["0", "1", "2"], "row number"),
        (["gene_7", "gene_8", "gene_9"], "row number"),
        (["V1", "V2", "V3"], "row number"),
        (["AAACCCAAGGAGAGTA-1", "AAACGCTTCAGCCCAG-1"], "barcode"),
        (["TP53", "Trp53", "HLA-A"], "symbol"),
        (["GATA1", "GATA2", "TACA"], "symbol"),
        (["", " "], "empty"),
        ([], "empty"),
    ],
)
def test_names_are_told_apart(names, space):
    assert space_of(names) == space


rows_of_counts = st.lists(
    st.lists(st.integers(1, 3_000), min_size=8, max_size=40), min_size=4, max_size=12
)  # of each cell, above zero


@settings(deadline=None, max_examples=60)
@given(counts=rows_of_counts, dtype=st.sampled_from([np.float32, np.float64]), base=st.sampled_from([np.e, 2.0, 10.0]))
def test_logarithms_of_any_counts_are_recognised_and_their_inverse_is_exact(counts, dtype, base):
    rows = [(np.log1p(np.array(row)) / np.log(base)).astype(dtype).astype(np.float64) for row in counts]
    found = recognise(rows)
    if all(np.all(row == np.rint(row)) for row in rows):  # log2(1 + 7) is 3
        assert found is None
        return
    assert found is not None
    assert found.number == "D018"
    for row, values in zip(counts, rows, strict=True):
        inverse = eval(found.inverse, {"np": np, "x": values})  # noqa: S307  # the text of the fix
        np.testing.assert_array_equal(inverse, row)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(["normal", "uniform", "gamma"]))
def test_values_that_are_nothing_in_particular_are_given_no_name(seed, shape):
    rng = np.random.default_rng(seed)
    draw = {
        "normal": lambda: np.abs(rng.normal(size=200)),
        "uniform": lambda: rng.uniform(0, 6, 200),
        "gamma": lambda: rng.gamma(0.7, 3, 200),
    }[shape]
    assert recognise([draw() for _ in range(10)]) is None


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), logarithm=st.booleans(), total=st.sampled_from([1e3, 1e4, 1e6]))
def test_scaled_counts_are_recognised_also_when_genes_were_left_out_afterwards(seed, logarithm, total):
    rng = np.random.default_rng(seed)
    x = zoo.counts(12, 80, seed=int(rng.integers(1_000)))
    values = (zoo.lognormal if logarithm else zoo.scaled)(x, total)[:, : int(rng.integers(30, 81))]
    found = recognise(list(values.astype(np.float64)))
    assert found is not None
    assert found.number == ("D020" if logarithm else "D019")
    assert found.inverse is None


def test_offenders_beyond_the_first_cells_are_named_right_in_every_layout(tmp_path):
    for layout in (csr_matrix, csc_matrix, np.asarray):
        x = zoo.counts(300)
        x[257, 59] = np.nan
        cells = zoo.cells(layout(x))
        path = zoo.write(tmp_path / f"{layout.__name__}.h5ad", cells)
        (finding,) = [f for f in inspect_sources(Request((path,), ConvertOptions())).findings if f.severity == "error"]
        assert (finding.offenders[0].cell, finding.offenders[0].gene) == (cells.obs_names[257], cells.var_names[59])


def test_counts_of_the_demo_are_what_anndata_sums(demo_h5ad):
    seen = inspect_sources(Request((demo_h5ad,), ConvertOptions())).sources[0].seen
    x = anndata.read_h5ad(demo_h5ad).X
    np.testing.assert_array_equal(seen.sums, np.asarray(x.sum(axis=0)).ravel())
    np.testing.assert_array_equal(seen.in_cells, np.asarray((x > 0).sum(axis=0)).ravel())
    assert (seen.totals[0], seen.totals[1]) == (x.sum(axis=1).min(), x.sum(axis=1).max())


def test_counts_that_were_cut_off_are_told_with_their_limit_and_a_lone_high_count_is_not(tmp_path):
    x = np.minimum(zoo.counts() * 37 + 1, 255).astype(np.uint8)
    cut = inspect_sources(Request((zoo.write(tmp_path / "a.h5ad", zoo.cells(x)),), ConvertOptions()))
    (finding,) = [f for f in cut.findings if f.number == "D042"]
    assert finding.what.startswith(f"{(x == 255).sum():,} values are exactly 255, ")
    lone = zoo.counts()
    lone[3, 4] = 255
    clean = inspect_sources(Request((zoo.write(tmp_path / "b.h5ad", zoo.cells(lone)),), ConvertOptions()))
    assert [f.number for f in clean.findings] == []
