"""BERT corruption: the three probabilities, what is never touched, and what a decision depends on."""

from __future__ import annotations

import numpy as np
import pytest

from scmf.core.errors import ConfigError
from scmf.data.collate import Collator
from scmf.data.masks import Corruption
from scmf.data.packing import packed_layout
from scmf.data.rank import Tokens
from scmf.data.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("geneformer-v2")
BERT = Corruption(select=0.15, mask=0.8, random=0.1)


def _cells(lengths, seed=0):
    """Framed cells of random genes."""
    draw = np.random.default_rng(seed)
    cells = [
        np.concatenate([[VOCABULARY.cls], draw.integers(VOCABULARY.first_gene, len(VOCABULARY), n), [VOCABULARY.eos]])
        for n in lengths
    ]
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in cells])])
    return Tokens(np.concatenate(cells).astype(np.int32), offsets)


def _corrupt(tokens, corruption=BERT, *, key=7, cell_ids=None, budget=1 << 20):
    ids = np.arange(len(tokens)) if cell_ids is None else cell_ids
    layout = packed_layout(tokens.lengths, budget=budget, align=1)
    keys = np.full(len(tokens), key, np.uint64)
    collator = Collator(VOCABULARY, 4096, corruption)
    return collator.collate(tokens, cell_ids=ids, keys=keys, layout=layout)


@pytest.mark.parametrize(
    "corruption",
    [BERT, Corruption(0.15, 0.8, 0.02), Corruption(0.5, 0.0, 1.0), Corruption(1.0, 0.3, 0.3)],
    ids=str,
)
def test_the_three_probabilities_are_as_asked(corruption):
    tokens = _cells([1_000] * 200)
    [batch] = _corrupt(tokens, corruption)
    n_genes, n = 200_000, len(batch.targets)
    seen = batch.input_ids[batch.target_positions]
    masked = (seen == VOCABULARY.mask).sum()
    changed = ((seen != VOCABULARY.mask) & (seen != batch.targets)).sum()

    def close(count, total, p):
        return abs(count - total * p) <= 4.5 * np.sqrt(total * p * (1 - p))

    assert close(n, n_genes, corruption.select)
    assert close(masked, n, corruption.mask)
    assert close(changed, n, corruption.random * (1 - 1 / len(VOCABULARY.gene_ids)))


def test_targets_are_the_originals_and_everything_else_is_untouched():
    tokens = _cells([1, 5, 300, 2_000])
    [batch] = _corrupt(tokens)
    restored = batch.input_ids.copy()
    restored[batch.target_positions] = batch.targets
    assert np.array_equal(restored, tokens.ids)
    assert (np.diff(batch.target_positions) > 0).all()


def test_special_tokens_are_neither_chosen_nor_put_in():
    [batch] = _corrupt(_cells([100] * 100), Corruption(1.0, 0.0, 1.0))
    assert len(batch.targets) == 10_000
    assert (batch.targets >= VOCABULARY.first_gene).all()
    seen = batch.input_ids[batch.target_positions]
    assert seen.min() >= VOCABULARY.first_gene
    assert seen.max() < len(VOCABULARY)


def test_random_genes_are_drawn_evenly():
    [batch] = _corrupt(_cells([2_000] * 200), Corruption(1.0, 0.0, 1.0))
    genes = batch.input_ids[batch.target_positions] - VOCABULARY.first_gene
    seen = np.bincount(genes * 20 // len(VOCABULARY.gene_ids), minlength=20)
    expected = len(genes) / 20
    assert ((seen - expected) ** 2 / expected).sum() < 45  # 19 degrees of freedom, p < 0.001


def test_every_cell_with_a_gene_has_a_target_wherever_it_lies():
    tokens = _cells([3] * 3_000)
    [batch] = _corrupt(tokens, Corruption(1e-9, 0.8, 0.1))
    assert len(batch.targets) == 3_000
    places = np.bincount((batch.target_positions % 5) - 1)
    assert places.min() > 900  # each of the three genes about a thousand times


def test_a_mask_depends_on_key_cell_and_position_alone():
    lengths = [40, 900, 7, 300]
    tokens = _cells(lengths)
    ids = np.array([10**12, 5, 17, 3])

    def decisions(batches):
        return {
            (int(cell), int(p - start)): (int(t), int(batch.input_ids[p]))
            for batch in batches
            for cell, start, end in zip(batch.cell_ids, batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)
            for p, t in zip(batch.target_positions, batch.targets, strict=True)
            if start <= p < end
        }

    together = decisions(_corrupt(tokens, cell_ids=ids))
    apart = decisions(_corrupt(tokens, cell_ids=ids, budget=902))
    assert together == apart
    assert len(together) > 100
    assert decisions(_corrupt(tokens, cell_ids=ids, key=8)) != together
    assert decisions(_corrupt(tokens, cell_ids=ids + 1)).keys() != together.keys()


@pytest.mark.parametrize("bad", [(0.0, 0.8, 0.1), (1.1, 0.8, 0.1), (0.15, 0.95, 0.1), (0.15, -0.1, 0.1)], ids=str)
def test_probabilities_that_are_none_are_refused(bad):
    with pytest.raises(ConfigError, match="select="):
        Corruption(*bad)
