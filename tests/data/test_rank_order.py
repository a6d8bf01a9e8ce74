"""Stores in rank order: the same tokens bit for bit, for their own vocabulary and no other, still anndata."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import StoreError, VocabularyError
from scmf.data.cli import store_command
from scmf.data.config import CellsConfig
from scmf.data.joined import JoinedStore
from scmf.data.manifest import read_manifest
from scmf.data.masks import Corruption
from scmf.data.memory_source import write_store
from scmf.data.rank import RankTokenizer
from scmf.data.rank_order import write_rank_ordered
from scmf.data.store import CellStore
from scmf.data.verify import verify_store
from scmf.data.vocabulary import Vocabulary, load_vocabulary


@pytest.fixture(scope="module", params=["geneformer-v1", "geneformer-v2"])
def vocabulary(request):
    return load_vocabulary(request.param)


@pytest.fixture(scope="module")
def ranked(demo_store, vocabulary, tmp_path_factory):
    return write_rank_ordered(demo_store.path, tmp_path_factory.mktemp("ranked") / "s", vocabulary)


def _tokens(store, vocabulary, cells, *, seq_length):
    return RankTokenizer(vocabulary, gene_ids=store.gene_ids, seq_length=seq_length).encode(store, cells)


@pytest.mark.parametrize(("seq_length", "read"), [(8, "mmap"), (512, "pread"), (100_000, "mmap")])
def test_tokens_of_real_cells_are_equal_bit_for_bit(demo_store, ranked, vocabulary, seq_length, read):
    cells = np.random.default_rng(0).permutation(len(demo_store))
    expected = _tokens(demo_store, vocabulary, cells, seq_length=seq_length)
    found = _tokens(CellStore.open(ranked.path, read=read), vocabulary, cells, seq_length=seq_length)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.offsets, expected.offsets)


def test_cells_and_labels_are_those_of_the_store_it_was_made_from(demo_store, ranked):
    for number, part in enumerate(ranked.parts):
        before = anndata.read_zarr(demo_store.parts[number].path)
        after = anndata.read_zarr(part.path)
        before.X.indices, after.X.indices = before.X.indices.astype(np.int32), after.X.indices.astype(np.int32)
        assert (before.X != after.X).nnz == 0
        assert before.obs.equals(after.obs)
        assert before.var.equals(after.var)
    assert ranked.n_cells == demo_store.n_cells
    assert list(verify_store(ranked.path)) == []
    assert "rank order" in ranked.manifest.history[-1]


def test_batches_of_a_run_are_equal_bit_for_bit(demo_store, ranked, vocabulary):
    def stream(store):
        config = CellsConfig.model_validate(
            {
                "store": str(store.path),
                "tokenizer": {"kind": "rank", "vocabulary": vocabulary.name, "seq_length": 512},
                "global_batch_size": 16,
                "microbatch_tokens": 2048,
            }
        )
        return config.open(objective=Corruption(0.15, 0.8, 0.1), seed=1)

    for a, b in zip(stream(demo_store).step(32).microbatches, stream(ranked).step(32).microbatches, strict=True):
        for name in a.__slots__:
            assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_another_vocabulary_is_refused_before_the_run(ranked, vocabulary):
    medians = vocabulary.medians.copy()
    medians[0] *= 1.0001
    other = Vocabulary(
        name=vocabulary.name,
        version=vocabulary.version,
        specials=vocabulary.specials,
        gene_ids=vocabulary.gene_ids,
        medians=medians,
        aliases=vocabulary.aliases,
        framed=vocabulary.framed,
    )
    wrong = "geneformer-v1" if vocabulary.name == "geneformer-v2" else "geneformer-v2"
    config = CellsConfig.model_validate(
        {
            "store": str(ranked.path),
            "tokenizer": {"kind": "rank", "vocabulary": wrong, "seq_length": 512},
            "global_batch_size": 16,
            "microbatch_tokens": 2048,
        }
    )
    with pytest.raises(VocabularyError, match=f"in the rank order of {vocabulary.name}") as caught:
        config.open(objective=Corruption(0.15, 0.8, 0.1), seed=1)
    assert "scmf-store rank-order STORE --vocabulary" in caught.value.fix
    with pytest.raises(VocabularyError, match="in the rank order of"):
        _tokens(ranked, other, np.arange(3), seq_length=64)


def test_ranked_and_ordinary_stores_can_be_read_as_one(demo_store, ranked, vocabulary):
    both = JoinedStore([ranked, demo_store], weights=[1, 1])
    tokens = _tokens(both, vocabulary, np.arange(2 * len(demo_store)), seq_length=256)
    assert all(np.array_equal(tokens.of(i), tokens.of(i + len(demo_store))) for i in range(len(demo_store)))


def test_the_command_makes_the_store_and_refuses_a_taken_place(demo_store, tmp_path, capsys):
    arguments = ["rank-order", str(demo_store.path), "--vocabulary", "geneformer-v1", "--dest", str(tmp_path / "s")]
    assert store_command(arguments) == 0
    assert "210 cells in the rank order of geneformer-v1" in capsys.readouterr().out
    assert read_manifest(tmp_path / "s").parts[0].rank_order.vocabulary == "geneformer-v1"
    with pytest.raises(StoreError, match="a store already"):
        store_command(arguments)


TOY = Vocabulary(
    name="toy",
    version="1",
    specials=("<pad>", "<mask>"),
    gene_ids=("ENSG1", "ENSG2", "ENSG3"),
    medians=np.array([1.0, 2.0, 0.5]),
    aliases={"ENSG9": "ENSG1", "ENSG8": "ENSG2"},
)
COLUMNS = ("ENSG1", "ENSG2", "ENSG3", "ENSG8", "ENSG9", "ENSGX")


def _toy_store(folder, counts):
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(counts))])
    return write_store(folder, counts=csr_matrix(counts), obs=obs, gene_ids=COLUMNS)


@pytest.mark.parametrize("seq_length", [2, 3, 6])
def test_genes_that_share_a_token_are_summed_as_ever(tmp_path, seq_length):
    counts = np.random.default_rng(0).poisson(0.8, (200, 6))
    counts[:, 5] = 1  # a gene without a token in every cell
    store = _toy_store(tmp_path / "s", counts)
    ranked = write_rank_ordered(tmp_path / "s", tmp_path / "r", TOY)
    expected, found = (_tokens(s, TOY, np.arange(200), seq_length=seq_length) for s in (store, ranked))
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.offsets, expected.offsets)


def test_a_cell_whose_ranks_would_have_no_end_is_refused(tmp_path):
    counts = np.array([[1, 0, 2, 0, 0, 0], [1, 0, 0, 0, 3, 0]])
    _toy_store(tmp_path / "s", counts)
    with pytest.raises(VocabularyError, match="cell 1 has counts in two genes that share a token"):
        write_rank_ordered(tmp_path / "s", tmp_path / "r", TOY)
    assert not (tmp_path / "r").exists()
