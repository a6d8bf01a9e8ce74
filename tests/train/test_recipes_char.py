"""Recipes of character GPTs: their names are their sizes, and their sizes are those of the models they build."""

from __future__ import annotations

import pytest

from scmf.model.transformer import VocabularyShape
from scmf.train.engine import count_parameters
from scmf.train.recipe import parameters
from scmf.train.recipes import find_recipe
from support.alone import alone, small_decoder


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("char-gpt-test", 54_208),
        ("char-gpt-tiny", 802_560),
        ("char-gpt-19m", 18_952_192),
        ("char-gpt-85m", 85_111_296),
    ],
)
def test_the_parameter_count_is_the_names(name, count):
    assert parameters(find_recipe(name).config()) == count
    size = name.rpartition("-")[2]
    assert not size.endswith("m") or f"{count / 1e6:.0f}m" == size


@pytest.mark.parametrize("name", ["char-gpt-test", "char-gpt-tiny"])
def test_a_recipe_builds_the_parameters_it_says(name):
    config = find_recipe(name).config()
    model, tokenizer = config.model, config.data.tokenizer
    shape = VocabularyShape(size=tokenizer.vocabulary_size, seq_length=tokenizer.seq_length)
    chosen = ("layers", "hidden", "ffn", "heads", "positions", "pad_vocabulary_to")
    built = small_decoder(shape, **{key: getattr(model, key) for key in chosen})
    assert count_parameters(built, alone()) == parameters(config)


def test_the_largest_sees_twenty_characters_a_parameter():
    config = find_recipe("char-gpt-85m").config()
    seen = config.trainer.steps * config.data.global_batch_size * config.data.tokenizer.seq_length
    assert seen / parameters(config) == pytest.approx(20, abs=0.01)
