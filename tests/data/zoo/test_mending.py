"""A fix that is a command mends what it says: it is run as printed, and the finding is gone."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import InputError
from scmf.data.cli import store_command
from scmf.data.ingest.findings import FINDINGS
from scmf.data.ingest.inspection import inspect_sources, make_plan
from scmf.data.ingest.plan import ConvertOptions, Request
from scmf.data.store import CellStore
from support import zoo

pytestmark = [
    pytest.mark.filterwarnings("ignore:Variable names are not unique"),
    pytest.mark.filterwarnings("ignore:Observation names are not unique"),
]


def find(number, *paths, **wishes):
    """The one finding of a number."""
    found = inspect_sources(Request(paths, ConvertOptions().changed(**wishes)))
    (finding,) = [f for f in found.findings if f.number == number]
    return finding


def run(fix):
    """Run a fix as a shell would: Python in this process, scmf-store as its command; returns the words."""
    program, *words = shlex.split(fix)
    if program == "python":
        assert words[0] == "-c"
        exec(compile(words[1], "fix", "exec"), {})  # noqa: S102  # the line that the user is told to run
    else:
        assert program == "scmf-store"
        assert store_command(words) == 0
    return words


def made_beside(path):
    """The file that a line of Python has written."""
    (made,) = [p for p in path.parent.iterdir() if p != path]
    return made


@pytest.fixture
def path(tmp_path):
    """A name that a shell would take apart, in several places."""
    folder = tmp_path / "my 'old' data"
    folder.mkdir()
    return folder / "a b.h5ad"


@pytest.mark.parametrize("log", [np.log1p, lambda x: np.log2(1 + x), lambda x: np.log10(1 + x)])
@pytest.mark.parametrize("form", [csr_matrix, np.asarray])
def test_logarithms_of_counts_are_undone_to_the_very_counts(path, tmp_path, log, form):
    x = zoo.counts()
    zoo.write(path, zoo.cells(form(log(x).astype(np.float32))))
    run(find("D018", path).fix)
    assert store_command(["convert", str(made_beside(path)), "--dest", str(tmp_path / "s")]) == 0
    batch = CellStore.open(tmp_path / "s").fetch(range(40))
    np.testing.assert_array_equal(csr_matrix((batch.counts, batch.indices, batch.indptr), shape=x.shape).toarray(), x)


def test_the_logarithm_of_a_layer_is_undone(path):
    cells = zoo.cells(-zoo.counts())
    cells.layers["log of counts"] = np.log1p(zoo.counts())
    zoo.write(path, cells)
    run(find("D018", path).fix)
    assert not inspect_sources(Request((made_beside(path),), ConvertOptions())).sources[0].refused


def test_empty_cells_and_nearly_empty_ones_are_left_out(path):
    x = zoo.counts()
    x[[3, 9]] = 0
    x[5, 2:] = 0
    zoo.write(path, zoo.cells(csr_matrix(x)))
    run(find("D023", path).fix)
    left = made_beside(path)
    assert {f.number for f in inspect_sources(Request((left,), ConvertOptions())).findings} == {"D024"}
    left.unlink()
    run(find("D024", path).fix)
    (only,) = inspect_sources(Request((made_beside(path),), ConvertOptions())).sources
    assert (only.findings, only.matrix.n_cells) == ([], 37)


def test_names_of_cells_are_made_unique(path):
    names = zoo.barcodes()
    names[30] = names[2]
    zoo.write(path, zoo.cells(obs=pd.DataFrame(index=names)))
    run(find("D027", path).fix)
    assert inspect_sources(Request((made_beside(path),), ConvertOptions())).findings == []


def test_a_transposed_file_is_turned(path):
    zoo.write(path, zoo.cells().T)
    run(find("D043", path).fix)
    assert not inspect_sources(Request((made_beside(path),), ConvertOptions())).sources[0].refused


def many_layers(path):
    cells = zoo.cells(csr_matrix(zoo.lognormal(zoo.counts())))
    cells.layers["raw counts"] = csr_matrix(zoo.counts())
    return zoo.write(path, cells)


def by_symbol(path):
    return zoo.write(path, zoo.cells(ids=zoo.genes()[1], symbols=False))


def human(path):
    return zoo.write(path, zoo.cells())


def two_species(path):
    ids = [*zoo.genes("human", 40)[0], *zoo.genes("mouse", 20)[0]]
    return zoo.write(path, zoo.cells(ids=ids, symbols=False))


def several_ids(path):
    cells = zoo.cells()
    cells.var["length"] = np.arange(60)
    return zoo.write(path, cells)


@pytest.mark.parametrize(
    ("number", "make", "wishes"),
    [
        pytest.param("D005", many_layers, {"counts": "layers/raw_counts"}, id="misspelt element"),
        pytest.param("D008", many_layers, {"counts": "X"}, id="wrong element"),
        pytest.param("D010", by_symbol, {}, id="symbols"),
        pytest.param("D011", several_ids, {"column": "length"}, id="column of numbers"),
        pytest.param("D011", several_ids, {"column": "gene ids"}, id="missing column"),
        pytest.param("D012", human, {"species": "mouse"}, id="other species"),
        pytest.param("D013", two_species, {}, id="two species"),
    ],
)
def test_the_command_of_a_refusal_is_accepted(path, tmp_path, number, make, wishes):
    make(path)
    words = run(find(number, path, **wishes).fix)
    assert words[:2] == ["check", str(path)]
    request = Request((path,), ConvertOptions().changed(**wishes), tmp_path / "s t")
    with pytest.raises(InputError, match=f"^SCMF-{number}") as caught:
        make_plan(request, log=lambda _: None, scratch=tmp_path / "x")
    assert run(caught.value.fix)[:4] == ["convert", str(path), "--dest", str(tmp_path / "s t")]
    assert len(CellStore.open(tmp_path / "s t")) == 40


def test_files_of_two_species_are_joined_by_orthologs_and_not_emptied(path, tmp_path):
    human(path)
    mouse = zoo.write(tmp_path / "mouse.h5ad", zoo.cells(ids=zoo.genes("mouse")[0], symbols=False))
    words = run(find("D013", path, mouse).fix)
    assert words == ["check", str(path), str(mouse), "--orthologs", "human"]


def test_a_species_that_costs_a_file_nearly_all_its_molecules_is_warned_of(path):
    ids = [*zoo.genes("human", 57)[0], *zoo.genes("mouse", 3)[0]]
    zoo.write(path, zoo.cells(ids=ids, symbols=False))
    assert "of another species or without an id" in find("D029", path, species="mouse").what
    kept = inspect_sources(Request((path,), ConvertOptions().changed(species="human")))
    assert "D029" not in {finding.number for finding in kept.findings}


def test_a_source_that_is_named_twice_is_named_once(path):
    human(path)
    words = run(find("D049", path, path).fix)
    assert words == ["check", str(path)]


def test_an_edit_of_python_is_offered_for_h5ad_only(tmp_path):
    x = zoo.counts()
    x[3] = 0
    assert find("D023", zoo.write_loom(tmp_path / "a.loom", x)).mend == FINDINGS["D023"].fix


def test_no_fix_names_a_place_that_is_gone(tmp_path):
    zoo.write_mtx(tmp_path / "m", zoo.lognormal(zoo.counts()))
    for finding in inspect_sources(Request((tmp_path / "m",), ConvertOptions())).findings:
        assert "scmf-check-" not in finding.mend
        assert str(Path(finding.file)) == str(tmp_path / "m")
