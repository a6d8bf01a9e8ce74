"""Keys that people know from other trainers are answered with ours."""

from __future__ import annotations

import pytest

from scmf.core.config_write import json_schema
from scmf.core.errors import ConfigError
from scmf.core.other_names import _NAMES, our_name
from scmf.train.config import MainConfig
from scmf.train.recipe import RecipeArguments
from scmf.train.recipes import find_recipe


def _keys(schema):
    """Every key of every section, with those of its kinds."""
    found = set()
    if isinstance(schema, dict):
        found |= set(schema.get("properties", {}))
        for part in schema.values():
            found |= _keys(part)
    elif isinstance(schema, list):
        for part in schema:
            found |= _keys(part)
    return found


def test_every_name_stands_for_a_key_that_there_is_and_is_none_itself():
    keys = _keys(json_schema(MainConfig))
    assert set(_NAMES) <= keys
    taken = {other for others in _NAMES.values() for other in others}
    assert len(taken) == sum(map(len, _NAMES.values()))
    assert taken & set(_NAMES) == set()


@pytest.mark.parametrize(
    ("override", "ours"),
    [
        ("trainer.optimizer.learning_rate=1e-4", "lr"),
        ("trainer.optimizer.max_grad_norm=1.0", "clip"),
        ("data.batch_size=64", "global_batch_size"),
        ("data.num_workers=4", "workers"),
        ("model.n_embd=256", "hidden"),
        ("trainer.num_epochs=3", "max_epochs"),
        ("trainer.validate.val_check_interval=10", "every"),
        ("trainer.parallel.tensor_model_parallel_size=2", "tensor"),
        ("trainer.output_dir=x", "result_dir"),
    ],
)
def test_a_key_of_another_trainer_is_answered_with_ours(override, ours):
    with pytest.raises(ConfigError) as caught:
        find_recipe("test").config(RecipeArguments(overrides=(override,)))
    assert f"did you mean `{ours}`?" in caught.value.fix


def test_a_name_is_answered_only_where_its_key_is():
    assert our_name("learning-rate", ["lr"]) == "lr"
    assert our_name("learning_rate", ["layers"]) is None
    assert our_name("flux", ["lr"]) is None
