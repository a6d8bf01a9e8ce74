"""The unigram baseline: exactly the loss of the token frequencies on exactly the run's validation targets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import ConfigError
from scmf.data.config import CellsConfig
from scmf.data.masks import Corruption
from scmf.data.memory_source import write_store
from scmf.data.stream import CellStream, Replica
from scmf.data.unigram import SMOOTHING, unigram_loss
from scmf.data.vocabulary import load_vocabulary


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    draw = np.random.default_rng(0)
    genes = load_vocabulary("geneformer-v2").gene_ids[:200]
    counts = draw.poisson(draw.lognormal(-1, 1.5, (1, 200)), (400, 200))
    obs = pd.DataFrame(index=[f"c{i}" for i in range(400)])
    return write_store(tmp_path_factory.mktemp("u") / "s", counts=csr_matrix(counts), obs=obs, gene_ids=genes)


def _stream(store, *, validation=0.2, **more):
    config = CellsConfig.model_validate(
        {
            "kind": "cells",
            "store": str(store.path),
            "tokenizer": {"kind": "rank", "vocabulary": "geneformer-v2", "seq_length": 64},
            "split": {"validation": validation},
            "global_batch_size": 32,
            "microbatch_tokens": 512,
        }
    )
    return CellStream(store, config, objective=Corruption(0.15, 0.8, 0.1), seed=4, align=16, **more)


def test_the_loss_is_that_of_the_frequencies_in_the_training_cells(store):
    stream = _stream(store)
    vocabulary = stream.vocabulary
    counts = dict.fromkeys(range(vocabulary.first_gene, len(vocabulary)), 0)
    for cell in stream.splits.train.take(np.arange(320)):
        for token in stream.tokenizer.encode(store, np.array([cell])).ids.tolist():
            if token in counts:
                counts[token] += 1
    targets = [t for i in range(2) for m in stream.validation(i).microbatches for t in m.targets.tolist()]
    found = unigram_loss(stream, batches=2)

    def loss(extra):
        n = sum(counts.values()) + extra * len(counts)
        return -np.mean([np.log((counts[t] + extra) / n) for t in targets])

    expected = min(map(loss, SMOOTHING))
    assert expected == loss(found.smoothing)
    assert found.mean == pytest.approx(expected, rel=1e-12)
    assert (found.targets, found.cells) == (len(targets), 320)
    assert found.perplexity == pytest.approx(np.exp(expected))


def test_it_beats_a_uniform_guess_and_needs_no_more_batches_than_there_are(store):
    stream = _stream(store)
    found = unigram_loss(stream, batches=100)
    assert found.mean < 0.75 * np.log(len(stream.vocabulary.gene_ids))
    assert found.targets == unigram_loss(stream, batches=3).targets > unigram_loss(stream, batches=1).targets
    assert unigram_loss(stream, batches=3, cells=50).cells == 50


def test_a_part_of_the_targets_or_none_is_refused(store):
    with pytest.raises(ConfigError, match="one replica of 2"):
        unigram_loss(_stream(store, replica=Replica(0, 2)), batches=1)
    with pytest.raises(ConfigError, match="0 validation cells"):
        unigram_loss(_stream(store, validation=0.0), batches=1)
