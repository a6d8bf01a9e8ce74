"""Rank tokens against Geneformer's own, and against the definition spelled out in NumPy."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from scmf.core.errors import StoreError, VocabularyError
from scmf.data.memory_source import write_store
from scmf.data.rank import RankTokenizer
from scmf.data.store import CellStore
from scmf.data.vocabulary import BARE_SPECIALS, FRAMED_SPECIALS, Vocabulary, load_vocabulary

DATA = Path(__file__).parents[2].parent / "shared" / "data"
GOLDEN = DATA / "golden_tokens"
SEQ_LENGTH = {"geneformer-v1": 2048, "geneformer-v2": 4096}

needs_data = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the shared data are not here")


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """Each golden input as a store of three parts, made once."""
    stores = {}

    def open_store(name):
        if name not in stores:
            cells = anndata.read_h5ad(GOLDEN / name / "input.h5ad")
            stores[name] = write_store(
                tmp_path_factory.mktemp("golden") / name,
                counts=csr_matrix(cells.X),
                obs=cells.obs[["cell_id"]],
                gene_ids=tuple(cells.var["ensembl_id"]),
                cells_per_part=-(-len(cells) // 3),
            )
        return stores[name]

    return open_store


@needs_data
@pytest.mark.parametrize(
    ("name", "vocabulary", "file"),
    [
        ("mix3cl", "geneformer-v1", "tokens_V1.parquet"),
        ("mix3cl", "geneformer-v2", "tokens_V2.parquet"),
        ("pbmc4k", "geneformer-v1", "tokens_V1.parquet"),
        ("pbmc4k", "geneformer-v2", "tokens_V2.parquet"),
        ("pbmc4k_aliasgenes", "geneformer-v2", "tokens_V2.parquet"),
    ],
)
def test_every_cell_has_the_tokens_that_geneformer_gives_it(golden, name, vocabulary, file):
    store = golden(name)
    vocabulary = load_vocabulary(vocabulary)
    seq_length = SEQ_LENGTH[vocabulary.name]
    tokenizer = RankTokenizer(vocabulary, gene_ids=store.gene_ids, seq_length=seq_length)
    tokens = tokenizer.encode(store, np.arange(len(store)))
    expected = pq.read_table(GOLDEN / name / file)
    assert list(store.obs(["cell_id"])["cell_id"]) == expected["cell_id"].to_pylist()
    for i, (ids, counts) in enumerate(
        zip(expected["input_ids"].to_pylist(), expected["counts"].to_pylist(), strict=True)
    ):
        _assert_same_up_to_ties(vocabulary, tokens.of(i), np.array(ids), np.array(counts), seq_length)


def _assert_same_up_to_ties(vocabulary, ours, theirs, counts, seq_length):
    """Equal token by token, except where upstream's float64 values differ by less than a float32 can tell."""
    assert len(ours) == len(theirs)
    frame = vocabulary.frame // 2
    if frame:
        assert (ours[0], ours[-1]) == (vocabulary.cls, vocabulary.eos) == (theirs[0], theirs[-1])
    ours, theirs, counts = (a[frame : len(a) - frame] for a in (ours, theirs, counts))
    value = dict(zip(theirs, counts / vocabulary.medians[theirs - vocabulary.first_gene], strict=True))
    cut = len(theirs) == seq_length - vocabulary.frame
    lowest = min(value.values())
    # Behind a cut, a gene that ties with the last kept one may stand for it.
    ours_values = np.array([value.get(t, lowest if cut else np.nan) for t in ours])
    np.testing.assert_allclose(ours_values, [value[t] for t in theirs], rtol=2e-7)
    assert len(set(ours)) == len(ours)
    assert (ours == theirs).mean() > 0.9  # ties are the exception, not the way round


@needs_data
def test_columns_of_retired_ids_are_summed_into_their_gene(golden):
    store = golden("pbmc4k_aliasgenes")
    vocabulary = load_vocabulary("geneformer-v2")
    known = vocabulary.tokens_of(store.gene_ids)
    known = known[known >= 0]
    assert len(np.unique(known)) < len(known)
    tokens = RankTokenizer(vocabulary, gene_ids=store.gene_ids, seq_length=4096).encode(store, np.arange(40))
    for i in range(40):
        assert len(np.unique(tokens.of(i))) == len(tokens.of(i))


def _toy_vocabulary(medians, *, framed=False):
    specials = FRAMED_SPECIALS if framed else BARE_SPECIALS
    genes = tuple(f"ENSG{i:011d}" for i in range(len(medians)))
    return Vocabulary(
        name="toy", version="1", specials=specials, gene_ids=genes, medians=np.array(medians), framed=framed
    )


def _toy_store(folder, counts, gene_ids, **more):
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(counts))])
    return write_store(folder, counts=csr_matrix(counts), obs=obs, gene_ids=tuple(gene_ids), **more)


def _by_definition(counts, token, median, limit):
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (counts * (10_000 / counts.sum()) / median).astype(np.float32)
    order = sorted((-value[j], token[j]) for j in range(len(counts)) if counts[j] > 0 and token[j] >= 0)
    return [t for _, t in order][:limit]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_order_is_that_of_the_scaled_values_with_ties_to_the_lower_token(tmp_path_factory, data):
    seed = data.draw(st.integers(0, 2**31))
    framed = data.draw(st.booleans())
    n_genes = data.draw(st.integers(1, 400))
    limit = data.draw(st.integers(1, 450))
    ties = data.draw(st.booleans())
    draw = np.random.default_rng(seed)
    # Powers of two divide exactly, so that ties are true ones and not a matter of rounding.
    medians = 2.0 ** draw.integers(-1, 2, n_genes) if ties else draw.lognormal(1, 2, n_genes)
    vocabulary = _toy_vocabulary(medians, framed=framed)
    columns = [*vocabulary.gene_ids, *(f"ENSGX{i}" for i in range(20))]
    columns = [columns[j] for j in draw.permutation(len(columns))]
    counts = draw.poisson(draw.choice([0.0, 0.5, 30.0]), (7, len(columns))) * draw.integers(1, 3)
    counts[0] = 0
    store = _toy_store(tmp_path_factory.mktemp("toy") / "s", counts, columns, cells_per_part=3)
    tokenizer = RankTokenizer(vocabulary, gene_ids=store.gene_ids, seq_length=limit + vocabulary.frame)
    cells = draw.integers(0, 7, 12)
    tokens = tokenizer.encode(store, cells)
    token = vocabulary.tokens_of(columns)
    median = np.array([medians[t - vocabulary.first_gene] if t >= 0 else np.nan for t in token])
    bounds = tokenizer.lengths_upper_bound(store, cells)
    for i, cell in enumerate(cells):
        expected = _by_definition(counts[cell], token, median, limit)
        if framed and expected:
            expected = [vocabulary.cls, *expected, vocabulary.eos]
        assert tokens.of(i).tolist() == expected
        assert len(expected) <= bounds[i] <= limit + vocabulary.frame


def test_thousands_of_equal_values_come_in_the_order_of_their_tokens(tmp_path):
    vocabulary = _toy_vocabulary([1.0] * 5_000)
    columns = [vocabulary.gene_ids[j] for j in np.random.default_rng(0).permutation(5_000)]
    store = _toy_store(tmp_path / "s", np.ones((1, 5_000)), columns)
    tokens = RankTokenizer(vocabulary, gene_ids=columns, seq_length=100).encode(store, np.array([0]))
    assert tokens.ids.tolist() == list(range(2, 102))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_wide_counts_are_read_as_they_are_stored(tmp_path, dtype):
    vocabulary = _toy_vocabulary([1.0, 1.0, 1.0])
    store = _toy_store(tmp_path / "s", np.array([[3, 2, np.iinfo(dtype).max - 1]]), vocabulary.gene_ids)
    assert store.parts[0].data.dtype == dtype
    tokens = RankTokenizer(vocabulary, gene_ids=store.gene_ids, seq_length=10).encode(store, np.array([0]))
    assert tokens.ids.tolist() == [4, 2, 3]


@pytest.mark.parametrize(
    ("gene_ids", "reason", "flag"),
    [
        pytest.param(("ENSMUSG00000000001",), "another species", "--orthologs human", id="mouse"),
        pytest.param(("CD3E", "CD4"), "not Ensembl ids", "--gene-ids map", id="symbols"),
        pytest.param(("ENSG99999999999",), "other ids", "--gene-ids map", id="unknown"),
    ],
)
def test_a_store_without_one_known_gene_is_refused_with_the_likely_reason(gene_ids, reason, flag):
    with pytest.raises(VocabularyError, match=f"(?s){reason}.*convert the sources again with {flag}"):
        RankTokenizer(load_vocabulary("geneformer-v1"), gene_ids=gene_ids, seq_length=2048)


def test_a_sequence_without_room_for_a_gene_is_refused():
    with pytest.raises(VocabularyError, match="no room for a gene"):
        RankTokenizer(_toy_vocabulary([1.0], framed=True), gene_ids=("ENSG00000000000",), seq_length=2)


def test_a_column_outside_the_genes_names_the_damaged_array(tmp_path):
    vocabulary = _toy_vocabulary([1.0] * 3)
    store = _toy_store(tmp_path / "s", np.array([[1, 2, 3]]), vocabulary.gene_ids)
    with (tmp_path / "s" / "part-00000" / "X" / "indices" / "c" / "0").open("r+b") as file:
        file.seek(4)
        file.write(b"\x77\x00")
    damaged = CellStore.open(tmp_path / "s")
    tokenizer = RankTokenizer(vocabulary, gene_ids=store.gene_ids, seq_length=10)
    with pytest.raises(StoreError, match="gene 119") as caught:
        tokenizer.encode(damaged, np.array([0]))
    assert caught.value.where.endswith("X/indices")
