"""Several stores as one: cells in order, genes by name, splits over all; strangers are refused."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import ConfigError, StoreError
from scmf.data.config import CellsConfig, SplitConfig
from scmf.data.config_order import StoreEntry
from scmf.data.joined import JoinedStore, open_stores
from scmf.data.manifest import NamedSplit, dump_manifest
from scmf.data.masks import Corruption
from scmf.data.memory_source import write_store
from scmf.data.rank import RankTokenizer
from scmf.data.split import named_split, split_cells
from scmf.data.store import CellStore
from scmf.data.stream import CellStream
from scmf.data.vocabulary import load_vocabulary

GENES = load_vocabulary("geneformer-v1").gene_ids[:60]
COUNTS = np.random.default_rng(3).poisson(1.0, (90, 60)) + np.eye(90, 60, dtype=int)


def _write(folder, rows, columns, *, wide=1, obs=None, **more):
    table = pd.DataFrame({"donor": [f"d{i // 10}" for i in rows], "n": rows, **(obs or {})})
    table.index = [f"c{i}" for i in rows]
    return write_store(
        folder,
        counts=csr_matrix(COUNTS[np.ix_(rows, columns)] * wide),
        obs=table,
        gene_ids=tuple(GENES[j] for j in columns),
        cells_per_part=20,
        **more,
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """All genes; the same genes in another order; a part of them with wide counts."""
    root = tmp_path_factory.mktemp("joined")
    order = np.random.default_rng(0).permutation(60)
    return (
        _write(root / "a", np.arange(0, 40), np.arange(60)),
        _write(root / "b", np.arange(40, 70), order, obs={"assay": "10x"}),
        _write(root / "c", np.arange(70, 90), order[:50], wide=70_000),
    )


@pytest.fixture(params=["mmap", "pread"])
def joined(stores, request):
    entries = [StoreEntry(path=str(store.path)) for store in stores]
    return open_stores(entries, read=request.param)


def _dense(batch, n_genes):
    matrix = csr_matrix(
        (batch.counts.astype(float), batch.indices, batch.indptr), shape=(len(batch.indptr) - 1, n_genes)
    )
    assert matrix.has_sorted_indices
    return matrix.toarray()


def test_cells_are_numbered_over_all_stores_and_genes_go_by_name(joined, stores):
    assert (len(joined), joined.n_genes, len(joined.parts)) == (90, 60, 5)
    expected = COUNTS.astype(float).copy()
    expected[70:] *= 70_000
    absent = [j for j in range(60) if GENES[j] not in stores[2].gene_ids]
    expected[np.ix_(range(70, 90), absent)] = 0
    ids = np.random.default_rng(1).permutation(90)
    assert joined.gene_ids == GENES
    assert np.array_equal(_dense(joined.fetch(ids), 60), expected[ids])
    assert np.array_equal(joined.lengths(ids), (expected[ids] > 0).sum(axis=1))
    assert joined.obs(["n"])["n"].tolist() == list(range(90))


def test_tokens_of_a_cell_are_those_of_its_own_store(joined, stores):
    vocabulary = load_vocabulary("geneformer-v1")
    together = RankTokenizer(vocabulary, gene_ids=joined.gene_ids, seq_length=64).encode(joined, np.arange(90))
    start = 0
    for store in stores:
        alone = RankTokenizer(vocabulary, gene_ids=store.gene_ids, seq_length=64).encode(store, np.arange(len(store)))
        for i in range(len(store)):
            assert np.array_equal(alone.of(i), together.of(start + i))
        start += len(store)


def test_a_column_that_a_store_lacks_is_missing_there(joined):
    codes, names = joined.obs_groups("assay")
    assert names == ("10x",)
    assert [codes[i] for i in (0, 39, 40, 69, 70)] == [-1, -1, 0, 0, -1]
    assert joined.obs(["assay"])["assay"].isna().sum() == 60
    with pytest.raises(StoreError, match="no column 'gone'"):
        joined.obs_groups("gone")


def test_a_donor_in_two_stores_is_on_one_side(joined):
    splits = split_cells(joined, by="donor", validation=0.2, test=0.0, seed=1)
    donors = joined.obs(["donor"])["donor"].astype(str).to_numpy()
    held = splits.validation.take(np.arange(len(splits.validation)))
    assert not set(donors[held]) & set(donors[splits.train.take(np.arange(len(splits.train)))])
    assert len(splits.validation) + len(splits.train) == 90


def test_the_fingerprint_covers_every_store_its_order_and_its_weight(stores):
    def join(*numbers, weights=None):
        return JoinedStore([stores[i] for i in numbers], weights=weights or [1.0] * len(numbers)).fingerprint

    prints = {join(0, 1), join(1, 0), join(0, 2), join(0, 1, weights=[1.0, 2.0]), stores[0].fingerprint}
    assert len(prints) == 5


def test_a_joined_store_works_in_another_process(joined):
    again = pickle.loads(pickle.dumps(joined))
    assert again.fingerprint == joined.fingerprint
    assert again.reading.mode == joined.reading.mode
    assert np.array_equal(again.fetch([3, 88]).counts, joined.fetch([3, 88]).counts)


def test_one_entry_is_that_store_itself(stores):
    assert type(open_stores([StoreEntry(path=str(stores[0].path))])) is CellStore


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param({"species": "mouse"}, "are cells of human and mouse", id="species"),
        pytest.param({"id_space": "symbols"}, "identify genes by ensembl and symbols", id="ids"),
        pytest.param({"gene_ids": tuple(f"ENSGX{i}" for i in range(60))}, "share none of 60 and 60 genes", id="genes"),
    ],
)
def test_stores_that_do_not_go_together_are_refused(stores, change, sentence):
    first = CellStore(stores[0].path, stores[0].manifest.replace(species="human"), stores[0].parts)
    other = CellStore(stores[1].path, first.manifest.replace(**change), stores[1].parts)
    with pytest.raises(ConfigError, match=sentence) as caught:
        JoinedStore([first, other], weights=[1, 1])
    assert len(str(caught.value).splitlines()) == 3


def test_a_run_over_several_stores_is_described_by_one_section(stores):
    config = CellsConfig.model_validate(
        {
            "store": [{"path": str(stores[0].path)}, {"path": str(stores[1].path), "weight": 3.0}],
            "tokenizer": {"kind": "rank", "seq_length": 64},
            "split": {"validation": 0.0},
            "global_batch_size": 14,
            "microbatch_tokens": 256,
        }
    )
    stream = config.open(objective=Corruption(0.15, 0.8, 0.1), seed=1)
    assert isinstance(stream, CellStream)
    drawn = np.concatenate([stream.step(p).cell_ids for p in range(0, 140, 14)])
    assert ((drawn < 40).sum(), (drawn >= 40).sum()) == (43, 97)  # 40 x 1 to 30 x 3, of twice 70


def test_a_named_split_of_the_store_says_which_cells(stores, tmp_path):
    store = _write(tmp_path / "s", np.arange(0, 40), np.arange(60))
    rules = NamedSplit(train=("donor=d0,d1",), validation=("donor=d2",), test=("n>=35",))
    (store.path / "manifest.json").write_bytes(dump_manifest(store.manifest.replace(splits={"first": rules})))
    store = CellStore.open(store.path)
    splits = named_split(store, "first")
    sizes = [len(cells) for cells in (splits.train, splits.validation, splits.test)]
    assert sizes == [20, 10, 5]
    assert splits.validation.take(np.arange(10)).tolist() == list(range(20, 30))
    both = JoinedStore([store, store], weights=[1, 1])
    assert named_split(both, "first").validation.take(np.arange(20)).tolist() == [*range(20, 30), *range(60, 70)]
    with pytest.raises(StoreError, match="it has first"):
        named_split(store, "second")
    with pytest.raises(StoreError, match="it has none"):
        named_split(JoinedStore([store, stores[0]], weights=[1, 1]), "first")
    config = CellsConfig.model_validate(
        {
            "store": str(store.path),
            "tokenizer": {"kind": "rank", "seq_length": 64},
            "split": SplitConfig(name="first"),
            "global_batch_size": 5,
            "microbatch_tokens": 256,
        }
    )
    stream = config.open(objective=Corruption(0.15, 0.8, 0.1), seed=1)
    assert (stream.n_train, stream.n_validation) == (20, 10)
    assert "donor=d0,d1" in stream.fingerprint["split"]
