"""Every malformed input gets its number: files of no known kind, broken matrices, values that are no counts, names."""

from __future__ import annotations

import pickle as pickle_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import InputError
from scmf.data.ingest.findings import FINDINGS
from scmf.data.ingest.inspection import inspect_sources, make_plan
from scmf.data.ingest.plan import ConvertOptions, Request
from support import malformed_files, malformed_names, malformed_values, zoo
from support.malformed import h5ad, raw

pytestmark = [
    # What anndata says about the animals when it writes them.
    pytest.mark.filterwarnings("ignore:Variable names are not unique"),
    pytest.mark.filterwarnings("ignore:Observation names are not unique"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data will no longer"),
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding will be the default"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
]

MALFORMED = [*malformed_files.ANIMALS, *malformed_values.ANIMALS, *malformed_names.ANIMALS]
"""(number, maker, wishes) of every animal."""


def look(sources, wishes):
    sources = sources if isinstance(sources, tuple) else (sources,)
    request = Request(sources, ConvertOptions().changed(**wishes))
    return request, inspect_sources(request)


@pytest.mark.parametrize(("number", "make", "wishes"), MALFORMED)
def test_a_malformed_input_gets_its_number(tmp_path, number, make, wishes):
    request, found = look(make(tmp_path), wishes)
    assert number in {f.number for f in found.findings}, [str(f) for f in found.findings]
    errors = [f for f in found.findings if f.severity == "error"]
    assert bool(errors) >= (FINDINGS[number].severity == "error")
    for finding in found.findings:
        assert len(str(finding).splitlines()) == 3, finding
        assert ".part" not in finding.where
        assert "scmf-check-" not in str(finding)
    if not errors:
        assert len(make_plan(request, log=lambda _: None, scratch=tmp_path / "s").sources) == len(request.sources)
        return
    with pytest.raises(InputError, match=f"^SCMF-{errors[0].number}: "):
        make_plan(request, log=lambda _: None, scratch=tmp_path / "s")


def test_the_zoo_has_every_number_and_at_least_sixty_animals():
    met = {case.values[0] for case in MALFORMED}
    elsewhere = {n for n in FINDINGS if n >= "D060"}  # of single formats: tests/data/test_sources*.py
    assert met | elsewhere == set(FINDINGS)
    assert len(MALFORMED) >= 60


def test_every_fault_of_every_file_is_told_in_one_go(tmp_path):
    negative, names = zoo.counts(), zoo.barcodes()
    negative[0, 0], negative[1, 1], names[5] = -1, np.nan, names[6]
    first = h5ad(tmp_path, negative, ids=zoo.genes()[1], obs=pd.DataFrame(index=names), symbols=False)
    second = raw(tmp_path, b"%PDF-1.7\n", "b.h5ad")
    _, found = look((first, second, tmp_path / "none"), {})
    assert [(Path(f.file).name, f.number) for f in found.findings if f.severity != "note"] == [
        ("a.h5ad", "D006"),
        ("a.h5ad", "D007"),
        ("a.h5ad", "D010"),
        ("a.h5ad", "D027"),
        ("b.h5ad", "D001"),
        ("none", "D001"),
    ]
    with pytest.raises(InputError, match=r"^SCMF-D006") as caught:
        make_plan(Request((first, second), ConvertOptions()), log=pytest.fail, scratch=tmp_path / "s")
    again = pickle_module.loads(pickle_module.dumps(caught.value))  # as workers hand it on
    lines = str(again).splitlines()
    assert [line.split(":")[1].strip() for line in lines[3::3]] == ["SCMF-D007", "SCMF-D010", "SCMF-D001"]
    assert len(lines) == 12


def test_the_first_three_offenders_are_named_by_cell_and_gene(tmp_path):
    x = zoo.counts()
    x[3, 10] = x[3, 11] = x[8, 2] = x[9, 1] = -4
    _, found = look(h5ad(tmp_path, csr_matrix(x)), {})
    (finding,) = [f for f in found.findings if f.number == "D006"]
    names, ids = zoo.barcodes(), zoo.genes()[0]
    assert finding.count == 4
    assert [(o.cell, o.gene, o.value) for o in finding.offenders] == [
        (names[3], ids[10], -4.0),
        (names[3], ids[11], -4.0),
        (names[8], ids[2], -4.0),
    ]
    assert f"-4 (cell {names[3]}, gene {ids[10]})" in finding.what


@pytest.mark.parametrize("seed", range(3))
def test_a_file_with_broken_bytes_has_findings_and_never_a_traceback(tmp_path, seed):
    rng, x = np.random.default_rng(seed), zoo.counts()
    files = [
        zoo.write(tmp_path / "a.h5ad", zoo.cells()),
        zoo.write_tenx_h5(tmp_path / "a.h5", x),
        zoo.write_loom(tmp_path / "a.loom", x),
        zoo.write_csv(tmp_path / "a.csv", x),
    ]
    for path in files * 4:
        whole = path.read_bytes()
        broken = bytearray(whole)
        for place in rng.integers(0, len(broken), 6):
            broken[place] = int(rng.integers(256))
        path.write_bytes(broken)
        _, found = look(path, {})
        assert all(len(str(f).splitlines()) == 3 for f in found.findings)
        path.write_bytes(whole)
