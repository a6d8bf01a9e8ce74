"""Counts for trainers that want no tokens: the store's own numbers, in the columns asked for, in the loader's order."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix

torch = pytest.importorskip("torch")

from scmf.core.errors import ConfigError, StoreError  # noqa: E402
from scmf.data.loader import CellLoader, CountsConfig, LoaderConfig, Replica  # noqa: E402
from scmf.data.loader_obs import read_column  # noqa: E402


@pytest.fixture(scope="module")
def config(demo_store):
    return CountsConfig(store=str(demo_store.path), batch_size=8, seed=5)


@pytest.fixture(scope="module")
def table(demo_store):
    """(cells, genes) counts of the whole store."""
    cells = demo_store.fetch(np.arange(len(demo_store)))
    shape = (len(demo_store), demo_store.n_genes)
    return csr_matrix((cells.counts.astype(np.float32), cells.indices, cells.indptr), shape).toarray()


@pytest.fixture(scope="module")
def chosen(demo_store, table):
    """40 genes that vary, most variable first: an order that is not the store's."""
    places = np.argsort(-table.var(axis=0))[:40]
    return places, [demo_store.gene_ids[place] for place in places]


def as_table(batch, n_genes):
    csr = [batch[name].numpy() for name in ("values", "columns", "indptr")]
    return csr_matrix(tuple(csr), (len(batch["cell_ids"]), n_genes)).toarray()


def test_counts_are_those_of_the_store_for_the_cells_that_tokens_are_of(config, table):
    counts = CellLoader(config)
    tokens = CellLoader(LoaderConfig(store=config.store, batch_size=8, seq_length=16, seed=5))
    for batch, same in zip(counts, tokens, strict=True):
        assert torch.equal(batch["cell_ids"], same["cell_ids"])
        assert np.array_equal(batch["counts"].numpy(), table[batch["cell_ids"]])
        assert np.array_equal(batch["totals"].numpy(), table[batch["cell_ids"]].sum(axis=1))
        assert {tensor.dtype for name, tensor in batch.items() if name != "cell_ids"} == {torch.float32}


def test_chosen_genes_stand_in_the_columns_asked_for_and_totals_are_of_all_genes(config, table, chosen):
    places, genes = chosen
    dense = CellLoader(config.replace(genes=genes))
    sparse = CellLoader(config.replace(genes=genes, sparse=True))
    assert dense.stream.gene_ids == tuple(genes)
    for one, other in zip(dense, sparse, strict=True):
        ids = one["cell_ids"]
        assert np.array_equal(one["counts"].numpy(), table[np.ix_(ids, places)])
        assert np.array_equal(as_table(other, len(genes)), one["counts"].numpy())
        ends = other["indptr"].numpy()
        assert all((np.diff(other["columns"].numpy()[a:b]) > 0).all() for a, b in itertools.pairwise(ends))
        assert np.array_equal(other["totals"].numpy(), table[ids].sum(axis=1))


def test_a_loader_of_counts_resumes_and_refuses_a_state_of_other_genes(config, chosen):
    whole = list(CellLoader(config.replace(genes=chosen[1])))
    first = CellLoader(config.replace(genes=chosen[1]))
    for _, _ in zip(range(9), first, strict=False):
        pass
    state = json.loads(json.dumps(first.state_dict()))
    again = CellLoader(config.replace(genes=chosen[1], workers=0))
    again.load_state_dict(state)
    assert all(torch.equal(a["counts"], b["counts"]) for a, b in zip(again, whole[9:], strict=True))
    with pytest.raises(ConfigError, match="genes: 40"):
        CellLoader(config.replace(genes=chosen[1][::-1])).load_state_dict(state)


def test_ranks_share_the_counts_of_a_step(config):
    whole = next(iter(CellLoader(config)))
    shares = [
        next(iter(CellLoader(config.replace(batch_size=4), replica=Replica(number=rank, of=2)))) for rank in range(2)
    ]
    assert torch.equal(torch.cat([share["cell_ids"] for share in shares]).sort()[0], whole["cell_ids"].sort()[0])


def test_held_out_cells_have_counts_too(config, table):
    held_out = list(CellLoader(config).held_out())
    assert sum(len(batch["cell_ids"]) for batch in held_out) == 10
    assert all(np.array_equal(batch["counts"].numpy(), table[batch["cell_ids"]]) for batch in held_out)


def test_genes_that_the_store_lacks_are_named(config, demo_store):
    with pytest.raises(StoreError, match="lacks 2 genes of 3 asked for: TP53, MYC; its ids are like ENSG") as caught:
        CellLoader(config.replace(genes=["TP53", demo_store.gene_ids[0], "MYC"]))
    assert "CellStore.open(PATH).gene_ids" in str(caught.value)


def test_a_gene_named_twice_is_refused(config, demo_store):
    with pytest.raises(ConfigError, match=r"names ENSG\d+ twice"):
        config.replace(genes=[demo_store.gene_ids[3]] * 2)


@pytest.mark.parametrize(
    ("values", "dtype", "expected", "names"),
    [
        pytest.param(["b", None, "a"], "category", [1, -1, 0], ("a", "b"), id="text"),
        pytest.param([True, False, True], bool, [1, 0, 1], ("False", "True"), id="boolean"),
        pytest.param([7, 3, 7], np.int32, [7, 3, 7], (), id="whole numbers"),
        pytest.param([0.5, np.nan, 2], np.float64, [0.5, np.nan, 2], (), id="measurements"),
    ],
)
def test_a_column_is_numbered_by_name_unless_it_holds_numbers(monkeypatch, demo_store, values, dtype, expected, names):
    import pandas as pd

    def column(part, name, *, n_cells):
        return pd.Series((values * n_cells)[:n_cells], dtype=dtype)

    for place in ("scmf.data.loader_obs.read_obs_column", "scmf.data.obs.read_obs_column"):
        monkeypatch.setattr(place, column)
    found = read_column(demo_store, "batch")
    numbers = found.of(np.arange(3))
    assert numbers.dtype == (np.float32 if dtype is np.float64 else np.int64)
    assert np.array_equal(numbers, np.array(expected, numbers.dtype), equal_nan=dtype is np.float64)
    assert found.names == names
