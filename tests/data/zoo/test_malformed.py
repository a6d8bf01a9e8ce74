"""Every malformed input gets its number: files of no known kind, broken matrices, values that are no counts, names."""

from __future__ import annotations

import gzip
import itertools
import pickle as pickle_module
import shutil
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from scmf.core.errors import InputError
from scmf.data.ingest.findings import FINDINGS
from scmf.data.ingest.inspection import inspect_sources, make_plan
from scmf.data.ingest.plan import ConvertOptions, Request
from support import zoo

pytestmark = [
    # What anndata says about the animals when it writes them.
    pytest.mark.filterwarnings("ignore:Variable names are not unique"),
    pytest.mark.filterwarnings("ignore:Observation names are not unique"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data will no longer"),
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding will be the default"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
]

MALFORMED = []
"""(number, maker, wishes) of every animal."""


def animal(number, **wishes):
    """Register a maker: takes an empty folder, returns a source or several."""

    def add(make):
        MALFORMED.append(pytest.param(number, make, wishes, id=f"{number}-{make.__name__}"))
        return make

    return add


def h5ad(folder, x=None, **what):
    return zoo.write(folder / "a.h5ad", zoo.cells(x, **what))


def raw(folder, content, name="a.h5ad"):
    (folder / name).write_bytes(content)
    return folder / name


# Nothing that can be read


@animal("D001")
def missing_file(folder):
    return folder / "none.h5ad"


@animal("D001")
def pdf_named_h5ad(folder):
    return raw(folder, b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")


@animal("D001")
def saved_web_page(folder):
    return raw(folder, b"<!DOCTYPE html><html><body>403 Forbidden</body></html>")


@animal("D001")
def r_object(folder):
    return raw(folder, gzip.compress(b"X\n\x00\x00\x00\x03" + bytes(100)), "a.rds")


@animal("D001")
def pickle(folder):
    return raw(folder, b"\x80\x04\x95" + bytes(50), "a.pkl")


@animal("D001")
def zip_of_tables(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("counts/a.csv", "x,y\n1,2\n")
    return folder / "a.zip"


@animal("D001")
def tar_of_a_matrix(folder):
    zoo.write_mtx(folder / "m", zoo.counts())
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(folder / "m", "m")
    return folder / "a.tar"


@animal("D001")
def empty_folder(folder):
    (folder / "a").mkdir()
    return folder / "a"


@animal("D001")
def seurat_h5(folder):
    with h5py.File(folder / "a.h5seurat", "w") as file:
        file.create_group("assays")
        file["cell.names"] = np.array([b"a"])
    return folder / "a.h5seurat"


@animal("D002")
def h5_of_images(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"] = np.zeros((2, 4, 4))
    return folder / "a.h5"


@animal("D016")
def empty_file(folder):
    return raw(folder, b"")


@animal("D016")
def cut_short(folder):
    path = h5ad(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


@animal("D016")
def tenx_cut_short(folder):
    path = zoo.write_tenx_h5(folder / "a.h5", zoo.counts())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@animal("D016")
def loom_cut_short(folder):
    path = zoo.write_loom(folder / "a.loom", zoo.counts())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@animal("D016")
def mtx_cut_short(folder):
    path = zoo.write_mtx(folder / "m", zoo.counts()) / "matrix.mtx.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder / "m"


@animal("D016")
def zarr_chunk_cut_short(folder):
    path = zoo.write(folder / "a.zarr", zoo.cells())
    chunk = max((p for p in (path / "X" / "data").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:20])
    return path


# Parts missing, shapes that do not fit


@animal("D002")
def no_obs(folder):
    return zoo.change(h5ad(folder), obs=None)


@animal("D002")
def no_var(folder):
    return zoo.change(h5ad(folder), var=None)


@animal("D002")
def no_matrix(folder):
    return zoo.change(h5ad(folder), X=None, layers=None)


@animal("D002")
def column_in_an_unknown_encoding(folder):
    path = h5ad(folder)
    with h5py.File(path, "r+") as file:
        file["obs"].create_group("lineage").attrs["encoding-type"] = "newick-tree"
        file["obs"].attrs["column-order"] = np.array(["donor", "lineage"], dtype=h5py.string_dtype())
    return path


@animal("D002")
def zarr_without_var(folder):
    path = zoo.write(folder / "a.zarr", zoo.cells(), zarr_format=2)
    shutil.rmtree(path / "var")
    (path / ".zmetadata").unlink(missing_ok=True)
    return path


@animal("D003")
def unknown_sparse_format(folder):
    path = h5ad(folder)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["encoding-type"] = "coo_matrix"
    return path


@animal("D003")
def matrix_of_texts(folder):
    path = h5ad(folder, zoo.counts())
    return zoo.change(path, X=np.full((40, 60), b"3", dtype="S1"))


@animal("D003")
def matrix_of_three_axes(folder):
    path = h5ad(folder, zoo.counts())
    return zoo.change(path, X=np.ones((40, 60, 2), np.float32))


@animal("D003")
def fewer_rows_of_obs_than_cells(folder):
    path = h5ad(folder)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = np.array([39, 60])
        indptr = file["X/indptr"][:40]
        del file["X/indptr"]
        file["X/indptr"] = indptr
    return path


@animal("D003")
def dense_of_another_width_than_var(folder):
    path = h5ad(folder, zoo.counts())
    return zoo.change(path, X=zoo.counts()[:, :50])


@animal("D004")
def no_cells(folder):
    return h5ad(folder, csr_matrix((0, 60), dtype=np.float32))


@animal("D004")
def no_genes(folder):
    return h5ad(folder, csr_matrix((40, 0), dtype=np.float32))


@animal("D004")
def nothing_but_zeros(folder):
    return h5ad(folder, np.zeros((40, 60), np.float32))


@animal("D005", counts="layers/spliced")
def element_that_is_not_there(folder):
    return h5ad(folder)


# Values that are no counts


@animal("D006")
def scaled_and_centred(folder):
    x = zoo.lognormal(zoo.counts())
    return h5ad(folder, ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32))


@animal("D006")
def one_negative_count_in_a_sparse_matrix(folder):
    x = zoo.counts()
    x[17, 3] = -2
    return h5ad(folder, csr_matrix(x))


@animal("D006")
def negative_count_in_loom(folder):
    x = zoo.counts()
    x[17, 3] = -2
    return zoo.write_loom(folder / "a.loom", x)


@animal("D007")
def not_a_number(folder):
    x = zoo.counts()
    x[20, 5] = np.nan
    return h5ad(folder, x)


@animal("D007")
def infinite(folder):
    x = zoo.counts()
    x[20, 5] = np.inf
    return h5ad(folder, csr_matrix(x))


@animal("D007")
def not_a_number_in_csc(folder):
    x = zoo.counts()
    x[20, 5] = np.nan
    return h5ad(folder, csc_matrix(x))


@animal("D007")
def missing_value_in_csv(folder):
    x = zoo.counts()
    x[20, 5] = np.nan
    return zoo.write_csv(folder / "a.csv", x)


@animal("D008")
def square_roots(folder):
    return h5ad(folder, np.sqrt(zoo.counts()))


@animal("D018")
def log1p_of_counts(folder):
    return h5ad(folder, csr_matrix(np.log1p(zoo.counts())))


@animal("D018")
def log2_of_counts(folder):
    return h5ad(folder, np.log2(1 + zoo.counts()))


@animal("D018")
def log10_of_counts_in_csc(folder):
    return h5ad(folder, csc_matrix(np.log10(1 + zoo.counts())))


@animal("D019")
def counts_per_ten_thousand(folder):
    return h5ad(folder, csr_matrix(zoo.scaled(zoo.counts())))


@animal("D019")
def counts_per_million_of_some_genes(folder):
    return h5ad(folder, csr_matrix(zoo.scaled(zoo.counts(n_genes=80), 1e6)[:, :60]))


@animal("D019")
def transcripts_per_million(folder):
    lengths = np.random.default_rng(5).lognormal(7, 0.7, 60)
    return h5ad(folder, zoo.scaled(zoo.counts() / lengths, 1e6))


@animal("D019")
def counts_per_million_in_loom(folder):
    return zoo.write_loom(folder / "a.loom", zoo.scaled(zoo.counts(), 1e6))


@animal("D020")
def scanpy_log_normal(folder):
    return h5ad(folder, csr_matrix(zoo.lognormal(zoo.counts())))


@animal("D020")
def log2_of_counts_per_million(folder):
    return h5ad(folder, np.log2(1 + zoo.scaled(zoo.counts(), 1e6)))


@animal("D020")
def log_normal_of_some_genes_in_zarr(folder):
    x = zoo.lognormal(zoo.counts(n_genes=80))[:, :60]
    return zoo.write(folder / "a.zarr", zoo.cells(csr_matrix(x)))


@animal("D020")
def log_normal_in_mtx(folder):
    return zoo.write_mtx(folder / "m", zoo.lognormal(zoo.counts()))


@animal("D020")
def log_normal_in_csv(folder):
    return zoo.write_csv(folder / "a.csv", zoo.lognormal(zoo.counts()))


@animal("D020")
def log_normal_in_10x_h5(folder):
    return zoo.write_tenx_h5(folder / "a.h5", zoo.lognormal(zoo.counts()))


@animal("D021")
def ambient_rna_removed(folder):
    return h5ad(folder, csr_matrix(zoo.ambient_removed(zoo.counts())))


@animal("D021")
def expected_counts_of_multimapping_reads(folder):
    x, rng = zoo.counts(), np.random.default_rng(6)
    return h5ad(folder, np.where(rng.random(x.shape) < 0.2, x * rng.random(x.shape), x).astype(np.float32))


@animal("D022")
def float_noise(folder):
    return h5ad(folder, zoo.counts().astype(np.float64) + 1e-11)


@animal("D009")
def scaled_x_and_log_normal_raw(folder):
    x = zoo.lognormal(zoo.counts())
    cells = zoo.cells(csr_matrix(x))
    cells.raw = cells
    cells.X = x - x.mean(axis=0)
    return zoo.write(folder / "a.h5ad", cells)


@animal("D014")
def count_beyond_32_bits(folder):
    x = zoo.counts().astype(np.float64)
    x[3, 4] = 5e9
    return h5ad(folder, x)


@animal("D017")
def counts_in_a_layer(folder):
    cells = zoo.cells(csr_matrix(zoo.lognormal(zoo.counts())))
    cells.layers["counts"] = csr_matrix(zoo.counts())
    return zoo.write(folder / "a.h5ad", cells)


@animal("D017")
def counts_in_raw(folder):
    cells = zoo.cells()
    cells.raw = cells
    cells.X = csr_matrix(zoo.lognormal(zoo.counts()))
    return zoo.write(folder / "a.zarr", cells)


# Sparse arrays


@animal("D015")
def gene_index_beyond_the_genes(folder):
    path = h5ad(folder)
    _, indices, _ = zoo.sparse_parts(path)
    indices[100] = 60
    return zoo.change(path, X__indices=indices)


@animal("D015")
def negative_gene_index(folder):
    path = h5ad(folder)
    _, indices, _ = zoo.sparse_parts(path)
    indices[100] = -1
    return zoo.change(path, X__indices=indices)


@animal("D015")
def cell_index_beyond_the_cells_in_csc(folder):
    path = h5ad(folder, csc_matrix(zoo.counts()))
    _, indices, _ = zoo.sparse_parts(path)
    indices[100] = 40
    return zoo.change(path, X__indices=indices)


@animal("D015")
def indptr_that_falls(folder):
    path = h5ad(folder)
    _, _, indptr = zoo.sparse_parts(path)
    indptr[5] = indptr[7]
    return zoo.change(path, X__indptr=indptr)


@animal("D015")
def indptr_beyond_the_values(folder):
    path = h5ad(folder)
    _, _, indptr = zoo.sparse_parts(path)
    indptr[-1] += 10
    return zoo.change(path, X__indptr=indptr)


@animal("D015")
def fewer_indices_than_values(folder):
    path = h5ad(folder)
    _, indices, _ = zoo.sparse_parts(path)
    return zoo.change(path, X__indices=indices[:-1])


@animal("D015")
def gene_index_beyond_the_genes_in_10x_h5(folder):
    path = zoo.write_tenx_h5(folder / "a.h5", zoo.counts())
    with h5py.File(path, "r+") as file:
        file["matrix/indices"][5] = 60
    return path


@animal("D038")
def unsorted_genes(folder):
    path = h5ad(folder)
    data, indices, indptr = zoo.sparse_parts(path)
    for a, b in itertools.pairwise(indptr):
        indices[a:b], data[a:b] = indices[a:b][::-1].copy(), data[a:b][::-1].copy()
    return zoo.change(path, X__indices=indices, X__data=data)


@animal("D039")
def a_gene_twice_in_a_cell(folder):
    path = h5ad(folder)
    _, indices, _ = zoo.sparse_parts(path)
    indices[1] = indices[0]
    return zoo.change(path, X__indices=indices)


@animal("D040")
def explicit_zeros(folder):
    path = h5ad(folder)
    data, _, _ = zoo.sparse_parts(path)
    data[::7] = 0
    return zoo.change(path, X__data=data)


@animal("D041")
def half_floats(folder):
    x = zoo.counts() * 300
    x[0, 0] = 2_047
    return zoo.change(h5ad(folder, x), X=(x + (x > 0)).astype(np.float16))


@animal("D042")
def bytes_that_overflowed(folder):
    return h5ad(folder, np.minimum(zoo.counts() * 37 + 1, 255).astype(np.uint8))


# Cells


@animal("D023")
def empty_cells(folder):
    x = zoo.counts()
    x[[3, 9]] = 0
    return h5ad(folder, csr_matrix(x))


@animal("D023")
def empty_cells_in_mtx(folder):
    x = zoo.counts()
    x[[3, 9]] = 0
    return zoo.write_mtx(folder / "m", x)


@animal("D024")
def cells_with_three_genes(folder):
    x = zoo.counts()
    x[[3, 9], 3:] = 0
    return h5ad(folder, csr_matrix(x))


@animal("D025")
def unfiltered_droplets(folder):
    x = zoo.counts(60, 1_200)
    x[20:, 2:] = 0
    return h5ad(folder, csr_matrix(x))


@animal("D027")
def a_barcode_twice(folder):
    names = zoo.barcodes()
    names[30] = names[2]
    return h5ad(folder, obs=pd.DataFrame(index=names))


@animal("D051")
def a_cell_without_a_name(folder):
    names = zoo.barcodes()
    names[30] = ""
    return h5ad(folder, obs=pd.DataFrame(index=names))


@animal("D046")
def zero_or_one(folder):
    return h5ad(folder, csr_matrix((zoo.counts() > 0).astype(np.float32)))


@animal("D047")
def downsampled_to_one_total(folder):
    x, rng = zoo.counts(), np.random.default_rng(8)
    return h5ad(
        folder,
        np.stack([rng.multinomial(500, row.astype(np.float64) / row.sum(dtype=np.float64)) for row in x]).astype(
            np.float32
        ),
    )


@animal("D048")
def counts_added_twice(folder):
    return h5ad(folder, csr_matrix(zoo.counts() * 2))


# Genes


@animal("D010")
def unmapped_symbols(folder):
    return h5ad(folder, ids=zoo.genes()[1], symbols=False)


@animal("D030")
def symbols_in_csv(folder):
    return zoo.write_csv(folder / "a.csv", zoo.counts(), ids=zoo.genes()[1])


@animal("D030")
def symbols_in_loom(folder):
    return zoo.write_loom(folder / "a.loom", zoo.counts(), ids=zoo.genes()[1])


@animal("D031")
def entrez_numbers(folder):
    numbers = np.random.default_rng(9).permutation(9_000)[:60] + 1
    return h5ad(folder, ids=[str(n) for n in numbers], symbols=False)


@animal("D032")
def transcript_ids(folder):
    return h5ad(folder, ids=[f"{gene.replace('ENSG', 'ENST')}.2" for gene in zoo.genes()[0]], symbols=False)


@animal("D032")
def refseq_transcripts(folder):
    return h5ad(folder, ids=[f"NM_{1_000 + 7 * k:06d}.3" for k in range(60)], symbols=False)


@animal("D033")
def affymetrix_probes(folder):
    return h5ad(folder, ids=[f"{2_000 + 3 * k}_s_at" for k in range(60)], symbols=False)


@animal("D033")
def probes_of_a_10x_panel(folder):
    ids, symbols = zoo.genes()
    names = [f"{i}|{s}|{k:07x}" for k, (i, s) in enumerate(zip(ids, symbols, strict=True))]
    return h5ad(folder, ids=names, symbols=False)


@animal("D034")
def row_numbers(folder):
    return h5ad(folder, ids=[str(k) for k in range(60)], symbols=False)


@animal("D034")
def numbered_genes(folder):
    return h5ad(folder, ids=[f"gene_{k}" for k in range(60)], symbols=False)


@animal("D035")
def symbols_that_a_spreadsheet_made_dates(folder):
    symbols = list(zoo.genes()[1])
    symbols[4:6] = ["1-Mar", "2-Sep"]
    return h5ad(folder, ids=symbols, symbols=False)


@animal("D035")
def riken_symbol_that_a_spreadsheet_made_a_number(folder):
    symbols = list(zoo.genes()[1])
    symbols[4] = "2.31E+13"
    return h5ad(folder, ids=symbols, symbols=False)


@animal("D036")
def two_genomes_with_prefixes(folder):
    human, mouse = zoo.genes("human", 30)[0], zoo.genes("mouse", 30)[0]
    return h5ad(folder, ids=[*(f"GRCh38_{i}" for i in human), *(f"mm10___{i}" for i in mouse)], symbols=False)


@animal("D011", column="ensembl")
def column_that_is_not_there(folder):
    return h5ad(folder)


@animal("D011", column="length")
def column_of_numbers(folder):
    cells = zoo.cells()
    cells.var["length"] = np.arange(60)
    return zoo.write(folder / "a.h5ad", cells)


@animal("D012", species="mouse")
def mouse_wanted_of_human_cells(folder):
    return h5ad(folder)


@animal("D013")
def two_species_in_one_file(folder):
    return h5ad(folder, ids=[*zoo.genes("human", 30)[0], *zoo.genes("mouse", 30)[0]], symbols=False)


@animal("D013")
def two_species_in_two_files(folder):
    human = h5ad(folder)
    mouse = zoo.write(folder / "b.h5ad", zoo.cells(ids=zoo.genes("mouse")[0], symbols=False))
    return human, mouse


@animal("D026")
def a_gene_id_twice(folder):
    ids = list(zoo.genes()[0])
    ids[40] = ids[1]
    return h5ad(folder, ids=ids)


@animal("D028")
def genes_without_counts(folder):
    x = zoo.counts()
    x[:, 30:] = 0
    return h5ad(folder, csr_matrix(x))


@animal("D029")
def a_third_of_the_genes_without_an_id(folder):
    ids, symbols = zoo.genes()
    return h5ad(folder, ids=[*ids[:40], *symbols[40:]])


@animal("D037")
def genes_that_no_vocabulary_knows(folder):
    return h5ad(folder, ids=[f"ENSG{99_000_000_000 + k:011d}" for k in range(60)], symbols=False)


@animal("D053")
def fish(folder):
    return h5ad(folder, ids=[f"ENSDARG{k:011d}" for k in range(60)], symbols=False)


@animal("D043")
def genes_for_cells(folder):
    cells = zoo.cells().T
    return zoo.write(folder / "a.h5ad", cells)


@animal("D043")
def barcodes_for_genes(folder):
    cells = zoo.cells(ids=zoo.genes()[1], symbols=False).T
    return zoo.write(folder / "a.h5ad", cells)


@animal("D044")
def spike_ins(folder):
    return h5ad(folder, ids=[*zoo.genes()[0][:55], *(f"ERCC-{k:05d}" for k in range(2, 7))])


@animal("D045")
def antibodies(folder):
    return zoo.write_tenx_h5(folder / "a.h5", zoo.counts(), antibodies=5)


@animal("D052")
def versioned_ids(folder):
    return h5ad(folder, ids=[f"{gene}.{k % 9 + 1}" for k, gene in enumerate(zoo.genes()[0])])


# Several sources


@animal("D049")
def one_file_twice(folder):
    path = h5ad(folder)
    return path, path.parent / "." / path.name


@animal("D050")
def barcodes_in_two_files(folder):
    return h5ad(folder), zoo.write(folder / "b.h5ad", zoo.cells())


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
