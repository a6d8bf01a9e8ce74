"""Conversion of h5ad files: the store holds exactly the counts that anndata reads, whatever the layout."""

from __future__ import annotations

import re
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from scmf.core.errors import InputError
from scmf.data.ingest import kernels
from scmf.data.ingest.blocks import iter_blocks
from scmf.data.ingest.convert import convert
from scmf.data.ingest.genes import GeneWishes
from scmf.data.ingest.h5ad import H5adFile
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.store import CellStore
from scmf.data.verify import verify_store

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL = sorted([*DATA.glob("sc_*/*.h5ad"), *DATA.glob("golden_tokens/*/input.h5ad"), *DATA.glob("awkward/*.h5ad")])
REFUSED = {
    "counts_in_layer_X_lognorm": "D010",
    "derived_no_gene_ids": "D010",
    "oligodendroglioma_float_nonint": "D008",
    "pbmc3k100_nan_dense": "D006",
    "pbmc68k_reduced_scaled_negative": "D009",
    "pbmc_10k_protein_v3_200cells": "D010",
    "pbmc_5k_protein_v3_200cells": "D010",
    "tapseq_bm_counts": "D010",
    "wu2020_200cells_14patients": "D010",
}
"""Refusal of each real file that has no raw counts or no Ensembl ids."""
BY_SYMBOL = [s for s, number in REFUSED.items() if number == "D010" and s != "derived_no_gene_ids"]
# Files of anndata 0.6 and 0.7, which anndata itself reads with a warning; and names of genes that repeat.
OLD = (
    "ignore:.*very old version",
    "ignore:.*not unique",
    "ignore:Element .* was written without encoding",
    "ignore::FutureWarning",
)

needs_data = pytest.mark.skipif(not REAL, reason="the shared data are not here")


def to_store(sources, dest, **wishes):
    lines = []
    sources = sources if isinstance(sources, list) else [sources]
    convert(sources, dest, ConvertOptions(**wishes), log=lines.append)
    return CellStore.open(dest), lines


def all_counts(store):
    batch = store.fetch(np.arange(len(store)))
    return csr_matrix((batch.counts.astype(np.float64), batch.indices, batch.indptr), shape=(len(store), store.n_genes))


def by_id(matrix, ids, order):
    """Counts of `order`'s genes: columns of the same id added up, columns of other ids left out."""
    place = {gene: k for k, gene in enumerate(order)}
    known = [(k, place[i]) for k, i in enumerate(ids) if i in place]
    rows, columns = np.array(known).T
    sums = csr_matrix((np.ones(len(known)), (rows, columns)), shape=(len(ids), len(order)))
    return csr_matrix(matrix).astype(np.float64) @ sums


def bare_ensembl(table):
    """The file's Ensembl ids without version, found without the code under test."""
    for texts in (table.index, *(table[c] for c in table.columns)):
        ids = [re.sub(r"\.\d+$", "", str(t)) for t in texts]
        if sum(i.startswith("ENSG") for i in ids) > 0.5 * len(ids):
            return [i if i.startswith("ENSG") else "" for i in ids]
    raise AssertionError("no ids")


def real(names=None):
    found = [p for p in REAL if (p.stem in names if names else p.stem not in REFUSED)]
    return [pytest.param(p, id=f"{p.parent.name}-{p.stem}") for p in found] or [pytest.param(None, marks=needs_data)]


@needs_data
@pytest.mark.parametrize("path", real())
@pytest.mark.filterwarnings(*OLD)
def test_a_real_file_becomes_exactly_the_counts_that_anndata_reads(path, tmp_path):
    store, _ = to_store(path, tmp_path / "s")
    cells = anndata.read_h5ad(path)
    ids = bare_ensembl(cells.var)
    assert set(store.gene_ids) == set(ids) - {""}
    assert (all_counts(store) != by_id(cells.X, ids, store.gene_ids)).nnz == 0
    assert list(store.obs([]).index) == [str(n) for n in cells.obs_names]
    pd.testing.assert_frame_equal(
        store.obs(list(cells.obs.columns)).astype(str).reset_index(drop=True),
        cells.obs.astype(str).reset_index(drop=True),
        check_column_type=False,
    )


@needs_data
@pytest.mark.parametrize("path", real(BY_SYMBOL))
@pytest.mark.filterwarnings(*OLD)
def test_a_real_file_without_ensembl_ids_keeps_its_names_when_asked(path, tmp_path):
    store, _ = to_store(path, tmp_path / "s", genes=GeneWishes(id_space="symbols"))
    cells = anndata.read_h5ad(path)
    counts = cells.layers.get("counts", cells.X)
    names = [str(n) for n in cells.var_names]
    assert store.manifest.id_space == "symbols"
    assert (all_counts(store) != by_id(counts, names, store.gene_ids)).nnz == 0


@needs_data
@pytest.mark.parametrize("path", real(REFUSED))
def test_a_real_file_that_is_not_raw_or_has_no_ids_is_refused_by_number(path, tmp_path):
    with pytest.raises(InputError, match=f"^SCMF-{REFUSED[path.stem]}: ") as caught:
        to_store(path, tmp_path / "s")
    assert str(path) in caught.value.where
    assert list(tmp_path.iterdir()) == []


@needs_data
@pytest.mark.parametrize(
    "path", real(["pbmc68k_reduced_scaled_negative", "pbmc3k100_nan_dense", "wu2020_200cells_14patients"])
)
@pytest.mark.filterwarnings(*OLD)
def test_slices_of_obs_in_old_and_new_encodings_are_anndata_s_rows(path):
    with H5adFile(path) as file:
        rows = file.obs_rows(10, 60)
    expected = anndata.read_h5ad(path).obs.iloc[10:60]
    assert list(rows.index) == [str(n) for n in expected.index]
    assert list(rows.columns) == list(expected.columns)
    for column in rows.columns:
        assert rows[column].astype(str).tolist() == expected[column].astype(str).tolist(), column


@needs_data
def test_csr_csc_and_dense_of_the_same_cells_give_the_same_store(tmp_path):
    names = ("versioned_ensembl", "csc_int64", "dense_float64")
    stores = [to_store(DATA / "awkward" / f"derived_{n}.h5ad", tmp_path / n)[0] for n in names]
    for store in stores[1:]:
        assert store.gene_ids == stores[0].gene_ids
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(store.parts[0], name), getattr(stores[0].parts[0], name))
    assert stores[0].manifest.sources[0].versions_stripped == 5621


@needs_data
def test_the_layer_with_counts_is_chosen_over_normalised_x_and_the_reason_is_told(tmp_path):
    path = DATA / "awkward" / "counts_in_layer_X_lognorm.h5ad"
    _, lines = to_store(path, tmp_path / "s", genes=GeneWishes(id_space="symbols"))
    assert any(
        "counts: layers/counts (integers" in line and "X has values that are not integers" in line for line in lines
    )


def toy(counts, *, ids=None, obs=None):
    counts = csr_matrix(np.asarray(counts)) if isinstance(counts, list | np.ndarray) else counts
    ids = ids or [f"ENSG{k:011d}" for k in range(counts.shape[1])]
    obs = pd.DataFrame(obs or {}, index=[f"cell{k}" for k in range(counts.shape[0])])
    return anndata.AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=ids))


def test_raw_x_is_read_with_the_genes_of_raw(tmp_path):
    cells = toy([[1, 2, 0], [0, 3, 4]])
    cells.raw = cells
    cells = cells[:, ::-1][:, :2].copy()
    cells.X = np.log1p(cells.X.toarray())
    cells.write_h5ad(tmp_path / "a.h5ad")
    store, lines = to_store(tmp_path / "a.h5ad", tmp_path / "s")
    assert any("counts: raw.X" in line for line in lines)
    assert store.gene_ids == ("ENSG00000000000", "ENSG00000000001", "ENSG00000000002")
    assert all_counts(store).toarray().tolist() == [[1, 2, 0], [0, 3, 4]]


def test_sources_with_different_genes_make_one_store_of_their_union(tmp_path):
    toy([[1, 2]], ids=["ENSG00000000001", "ENSG00000000002"], obs={"donor": ["d1"], "age": [30]}).write_h5ad(
        tmp_path / "a.h5ad"
    )
    toy([[5, 6], [0, 7]], ids=["ENSG00000000002", "ENSG00000000003"], obs={"donor": ["d2", "d1"]}).write_h5ad(
        tmp_path / "b.h5ad"
    )
    store, _ = to_store([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "s")
    assert store.gene_ids == ("ENSG00000000001", "ENSG00000000002", "ENSG00000000003")
    assert all_counts(store).toarray().tolist() == [[1, 2, 0], [0, 5, 6], [0, 0, 7]]
    assert store.obs_groups("donor").names == ("d1", "d2")
    assert store.obs_groups("scmf_source").names == ("a.h5ad", "b.h5ad")
    assert store.obs(["age"])["age"].isna().tolist() == [False, True, True]
    assert [(s.name, s.first_cell, s.n_cells) for s in store.manifest.sources] == [("a.h5ad", 0, 1), ("b.h5ad", 1, 2)]


def test_parts_are_cut_across_sources_at_the_number_asked_for(tmp_path, demo_h5ad):
    store, _ = to_store([demo_h5ad, demo_h5ad], tmp_path / "s", cells_per_part=100)
    assert [p.n_cells for p in store.parts] == [100, 100, 100, 100, 20]
    counts = all_counts(store)
    assert (counts[:210] != counts[210:]).nnz == 0
    assert list(store.obs(["batch"])["batch"][:210]) == list(store.obs(["batch"])["batch"][210:])
    assert list(verify_store(store.path)) == []


def test_columns_of_one_id_are_added_up_and_told(tmp_path):
    ids = ["ENSG00000000001.2", "ENSG00000000002", "ENSG00000000001.3", "ERCC-00002"]
    toy([[1, 2, 4, 9], [0, 0, 65_535, 9], [3, 0, 65_535, 0]], ids=ids).write_h5ad(tmp_path / "a.h5ad")
    store, lines = to_store(tmp_path / "a.h5ad", tmp_path / "s")
    assert all_counts(store).toarray().tolist() == [[5, 2], [65_535, 0], [65_538, 0]]
    source = store.manifest.sources[0]
    assert (source.repeated_columns, source.versions_stripped, source.genes_without_id) == (1, 2, 1)
    assert any("1 repeat an id and are added up" in line for line in lines)


def test_counts_within_float_noise_are_rounded_and_counted(tmp_path):
    toy([[0.9999999, 2.00001], [3, 4]]).write_h5ad(tmp_path / "a.h5ad")
    store, _ = to_store(tmp_path / "a.h5ad", tmp_path / "s")
    assert all_counts(store).toarray().tolist() == [[1, 2], [3, 4]]
    assert store.manifest.sources[0].values_rounded == 2


def test_a_large_count_after_small_ones_widens_what_is_already_written(tmp_path):
    small, large = np.arange(1, 16).reshape(3, 5), np.array([[1, 0, 0, 0, 100_000]])
    toy(small).write_h5ad(tmp_path / "a.h5ad")
    toy(large).write_h5ad(tmp_path / "b.h5ad")
    store, _ = to_store([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "s")
    assert [p.data.dtype for p in store.parts] == [np.uint32]
    np.testing.assert_array_equal(all_counts(store).toarray(), np.concatenate([small, large]))
    assert list(verify_store(store.path)) == []


def test_the_highest_count_is_kept_and_the_next_one_refused(tmp_path):
    cells = toy([[1, 2]])
    cells.X = csr_matrix(np.array([[4_294_967_295.0, 7.0]]))
    cells.write_h5ad(tmp_path / "a.h5ad")
    store, _ = to_store(tmp_path / "a.h5ad", tmp_path / "s")
    assert all_counts(store).toarray().tolist() == [[4_294_967_295, 7]]
    twice = toy([[1, 2]], ids=["ENSG00000000001.1", "ENSG00000000001.2"])  # together above the highest
    twice.X = csr_matrix(np.array([[4_294_967_295.0, 1.0]]))
    twice.write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(InputError, match=r"^SCMF-D014"):
        to_store(tmp_path / "b.h5ad", tmp_path / "t")


def test_a_fault_that_the_first_look_misses_is_refused_with_its_cell_and_gene(tmp_path):
    counts = np.ones((700, 1500), np.float32)
    counts[66, 1001] = 0.5
    counts[67, 3] = 7.25
    toy(counts).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(
        InputError, match=r"^SCMF-D008: .*0\.5 \(cell cell66, gene ENSG00000001001\), 7\.25 \(cell cell67"
    ):
        to_store(tmp_path / "a.h5ad", tmp_path / "s")
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


def test_species_keeps_its_own_genes_and_counts_the_others(tmp_path):
    toy([[1, 2]], ids=["ENSG00000000001", "ENSMUSG00000000002"]).write_h5ad(tmp_path / "a.h5ad")
    store, _ = to_store(tmp_path / "a.h5ad", tmp_path / "s", genes=GeneWishes(species="mouse"))
    assert store.gene_ids == ("ENSMUSG00000000002",)
    assert store.manifest.species == "mouse"
    assert store.manifest.sources[0].genes_of_other_species == 1


@pytest.mark.parametrize("budget", [1, 10**9], ids=["many blocks", "one block"])
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_blocks_of_any_size_are_the_matrix(tmp_path, layout, budget):
    rng = np.random.default_rng(3)
    counts = rng.poisson(0.5, (3000, 200)).astype(np.float32)
    cells = toy(counts)
    cells.X = {"csr": cells.X, "csc": cells.X.tocsc(), "dense": counts}[layout]
    cells.write_h5ad(tmp_path / "a.h5ad")
    with H5adFile(tmp_path / "a.h5ad") as file:
        rows, n_blocks = [], 0
        for block in iter_blocks(file.matrices()["X"], budget=budget, scratch=tmp_path / "scratch"):
            shape = (block.n_cells, 200)
            rows.append(csr_matrix((block.values.copy(), block.columns.copy(), block.indptr), shape=shape).toarray())
            n_blocks += 1
    np.testing.assert_array_equal(np.concatenate(rows), counts)
    assert n_blocks > 1 or budget > 1


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_canonical_rows_are_scipy_s_sums_for_any_order_repeats_zeros_and_drops(data):
    n_columns, n_genes = 7, 4
    numbers = np.array(data.draw(st.lists(st.integers(-1, n_genes - 1), min_size=7, max_size=7)), np.int32)
    rows = data.draw(st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 70_000)), max_size=9), max_size=5))
    indptr = np.cumsum([0, *map(len, rows)])
    columns = np.array([c for row in rows for c, _ in row], np.int32)
    values = np.array([v for row in rows for _, v in row], np.float32)
    out = np.zeros(len(values), np.uint16), np.zeros(len(values), np.uint32)
    lengths, state = np.zeros(len(rows), np.int64), np.zeros(kernels.STATE_SLOTS, np.int64)
    kernels.canonical_rows(indptr, (columns, values), numbers, out, lengths, state)
    expected = np.zeros((len(rows), n_genes), np.int64)
    dropped = 0
    for r, row in enumerate(rows):
        for c, v in row:
            if numbers[c] >= 0:
                expected[r, numbers[c]] += v
            else:
                dropped += v
    ends = np.concatenate([[0], np.cumsum(lengths)])
    for r in range(len(rows)):
        genes, counts = out[0][ends[r] : ends[r + 1]], out[1][ends[r] : ends[r + 1]]
        np.testing.assert_array_equal(genes, np.flatnonzero(expected[r]))
        np.testing.assert_array_equal(counts, expected[r][expected[r] > 0])
    assert state[kernels.FAULT] == 0
    assert state[kernels.MAX_COUNT] == expected.max(initial=0)
    assert (state[kernels.KEPT], state[kernels.DROPPED]) == (expected.sum(), dropped)
    assert n_columns == len(numbers)


def negative(path):
    toy([[1, -2]]).write_h5ad(path)


def not_finite(path):
    toy([[1, np.nan]]).write_h5ad(path)


def normalised(path):
    toy([[0.5, 1.25]]).write_h5ad(path)


def normalised_twice(path):
    cells = toy([[0.5, 1.25]])
    cells.layers["scaled"] = -cells.X
    cells.write_h5ad(path)


def counts(path):
    toy([[1, 2]]).write_h5ad(path)


def by_name(path):
    toy([[1, 2]], ids=["TP53", "GATA1"]).write_h5ad(path)


def two_species(path):
    toy([[1, 2]], ids=["ENSG00000000001", "ENSMUSG00000000002"]).write_h5ad(path)


def too_large(path):
    cells = toy([[1, 2]])
    cells.X = csr_matrix(np.array([[1.0, 5e9]]))
    cells.write_h5ad(path)


def empty(path):
    toy(csr_matrix((0, 2))).write_h5ad(path)


def text_file(path):
    path.write_text("gene,cell\n")


def loom_like(path):
    with h5py.File(path, "w") as file:
        file["matrix"] = np.eye(2)


def unknown_matrix(path):
    counts(path)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["encoding-type"] = "coo_matrix"


def bad_index(path):
    counts(path)
    with h5py.File(path, "r+") as file:
        file["X/indices"][1] = 99


def cut_short(path):
    toy(np.ones((300, 500))).write_h5ad(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


REFUSALS = [
    ("D001", text_file, {}),
    ("D002", loom_like, {}),
    ("D003", unknown_matrix, {}),
    ("D004", empty, {}),
    ("D005", counts, {"counts": "layers/spliced"}),
    ("D006", negative, {}),
    ("D007", not_finite, {}),
    ("D008", normalised, {}),
    ("D009", normalised_twice, {}),
    ("D010", by_name, {}),
    ("D011", counts, {"genes": GeneWishes(column="ensembl")}),
    ("D012", counts, {"genes": GeneWishes(species="mouse")}),
    ("D013", two_species, {}),
    ("D014", too_large, {}),
    ("D015", bad_index, {}),
    ("D016", cut_short, {}),
]


@pytest.mark.parametrize(("number", "make", "wishes"), REFUSALS, ids=[f"{n} {m.__name__}" for n, m, _ in REFUSALS])
def test_a_file_that_cannot_be_converted_is_refused_by_its_number(tmp_path, number, make, wishes):
    path = tmp_path / "a.h5ad"
    make(path)
    with pytest.raises(InputError, match=f"^SCMF-{number}: ") as caught:
        to_store(path, tmp_path / "s", **wishes)
    assert len(str(caught.value).splitlines()) == 3
    if number in {"D006", "D007", "D008", "D014"}:
        assert "(cell cell0, gene ENSG0000000000" in str(caught.value)
    assert str(path) in caught.value.where
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_h5ad_is_refused_and_never_a_traceback(tmp_path, demo_h5ad, seed):
    rng = np.random.default_rng(seed)
    raw = bytearray(demo_h5ad.read_bytes())
    for place in rng.integers(0, 60_000 if seed % 2 else len(raw), 20):
        raw[place] ^= 1 << int(rng.integers(8))
    (tmp_path / "a.h5ad").write_bytes(raw)
    with pytest.raises(InputError, match=r"^SCMF-D0(02|03|15|16): "):
        to_store(tmp_path / "a.h5ad", tmp_path / "s")
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


def test_naming_the_wrong_element_is_answered_with_the_command_that_names_the_right_one(tmp_path):
    cells = toy([[0.5, 1.25]])
    cells.layers["counts"] = csr_matrix(np.array([[1.0, 2.0]]))
    cells.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=r"^SCMF-D008") as caught:
        to_store(tmp_path / "a.h5ad", tmp_path / "s", counts="X", genes=GeneWishes(species="human"))
    command = f"scmf-store convert {tmp_path}/a.h5ad --dest {tmp_path}/s --species human --counts layers/counts"
    assert caught.value.fix == command


def test_a_value_is_looked_at_once_in_a_matrix_that_the_windows_cover(tmp_path):
    rng = np.random.default_rng(3)
    counts = csr_matrix(rng.poisson(1.0, (1_000, 150)).astype(np.float32))
    genes = pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(150)])
    source = tmp_path / "small.h5ad"
    anndata.AnnData(counts, var=genes).write_h5ad(source)
    said = []
    convert([source], tmp_path / "store", ConvertOptions(), log=said.append)
    assert 65_536 < counts.nnz < 8 * 65_536
    assert f" in {counts.nnz:,} values looked at" in "\n".join(map(str, said))
