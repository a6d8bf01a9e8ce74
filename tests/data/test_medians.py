"""Vocabularies computed from a store, and how much of a store a vocabulary knows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import VocabularyError
from scmf.data.cli import store_command
from scmf.data.coverage import measure_coverage
from scmf.data.joined import JoinedStore
from scmf.data.medians import compute_vocabulary, write_vocabulary
from scmf.data.memory_source import write_store
from scmf.data.rank import RankTokenizer
from scmf.data.vocabulary import Vocabulary, load_vocabulary


def _store(folder, counts, gene_ids, **more):
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(counts))])
    return write_store(folder, counts=csr_matrix(counts), obs=obs, gene_ids=tuple(gene_ids), **more)


@pytest.fixture(scope="module")
def counts():
    draw = np.random.default_rng(0)
    return draw.poisson(draw.lognormal(0, 2.5, (1, 90)) * draw.lognormal(0, 1, (701, 1)))


@pytest.mark.parametrize("factor", [1, 1_000])
def test_medians_are_within_a_hundredth_of_the_exact_ones(tmp_path, counts, factor):
    counts = counts * factor
    names = [f"ENSG{j:03}" for j in np.random.default_rng(1).permutation(90)]
    vocabulary = compute_vocabulary(_store(tmp_path / "s", counts, names, cells_per_part=300), name="mine")
    with np.errstate(invalid="ignore"):
        scaled = counts / counts.sum(axis=1, keepdims=True) * 10_000
    exact = {name: np.median(scaled[counts[:, j] > 0, j]) for j, name in enumerate(names) if counts[:, j].any()}
    assert vocabulary.gene_ids == tuple(sorted(exact))
    np.testing.assert_allclose(vocabulary.medians, [exact[g] for g in vocabulary.gene_ids], rtol=1 / 128)


def test_stores_joined_have_the_medians_of_all_their_cells(tmp_path, counts):
    names = [f"ENSG{j:03}" for j in range(90)]
    one = _store(tmp_path / "one", counts[:300, :60], names[:60])
    other = _store(tmp_path / "other", counts[300:, ::-1], names[::-1])
    both = np.concatenate([np.pad(counts[:300, :60], ((0, 0), (0, 30))), counts[300:]])
    together = compute_vocabulary(JoinedStore([one, other], weights=[1.0, 1.0]), name="mine")
    expected = compute_vocabulary(_store(tmp_path / "both", both, names), name="mine")
    assert together.gene_ids == expected.gene_ids
    np.testing.assert_array_equal(together.medians, expected.medians)


def test_a_gene_in_few_cells_gets_no_token(tmp_path, counts):
    names = [f"ENSG{j:03}" for j in range(90)]
    store = _store(tmp_path / "s", counts, names)
    vocabulary = compute_vocabulary(store, name="mine", min_cells=400, framed=True)
    assert vocabulary.gene_ids == tuple(n for j, n in enumerate(names) if (counts[:, j] > 0).sum() >= 400)
    assert vocabulary.framed
    with pytest.raises(VocabularyError, match=r"702 or more of 701 cells"):
        compute_vocabulary(store, name="mine", min_cells=702)


def test_a_computed_vocabulary_is_used_by_its_path(tmp_path, counts):
    store = _store(tmp_path / "s", counts, [f"ENSG{j:03}" for j in range(90)])
    told = []
    written = write_vocabulary(tmp_path / "s", tmp_path / "mine.parquet", on_cells=told.append)
    read = load_vocabulary(str(tmp_path / "mine.parquet"))
    assert (read.name, read.fingerprint, sum(told)) == ("mine", written.fingerprint, 701)
    assert store.fingerprint in read.source
    tokens = RankTokenizer(read, gene_ids=store.gene_ids, seq_length=100).encode(store, np.arange(701))
    assert np.array_equal(tokens.lengths, (counts > 0).sum(axis=1))


def test_the_command_writes_the_vocabulary_and_says_what_it_covers(tmp_path, counts, capsys):
    _store(tmp_path / "s", counts, [f"ENSG{j:03}" for j in range(90)])
    out = tmp_path / "mine.parquet"
    assert store_command(["vocabulary", str(tmp_path / "s"), "--out", str(out), "--min-cells", "50"]) == 0
    read = load_vocabulary(str(out))
    printed = capsys.readouterr().out
    assert f"{len(read):,} tokens, fingerprint {read.fingerprint}" in printed
    assert f"{len(read.gene_ids)} of 90 genes" in printed
    assert 2 < len(read) < 92


def test_coverage_counts_genes_counts_and_cells_without_tokens(tmp_path):
    vocabulary = Vocabulary(
        name="toy",
        version="1",
        specials=("<pad>", "<mask>"),
        gene_ids=("ENSG1", "ENSG2"),
        medians=np.ones(2),
        aliases={"ENSG0": "ENSG1"},
    )
    counts = np.array([[1, 0, 0, 7], [0, 0, 0, 2], [3, 4, 5, 0], [0, 0, 0, 0]])
    store = _store(tmp_path / "s", counts, ["ENSG0", "ENSG1", "ENSG2", "ENSG3"])
    found = measure_coverage(vocabulary, store)
    assert (found.genes, found.known_genes, found.cells, found.cells_without_tokens) == (4, 3, 4, 2)
    assert (found.counts, found.known_counts) == (22, 13)
    assert "3 of 4 genes (75.0%) and 59.1% of the counts" in str(found)
    assert measure_coverage(vocabulary, store, cells=2).cells == 2
