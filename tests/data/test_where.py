"""Rules over obs: which cells they choose, and what they say when they cannot."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import StoreError
from scmf.data.memory_source import write_store
from scmf.data.where import select_any, select_cells


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical(["d1", "d2", None, "d1, left", "d2"]),
            "age": [30, 65, 70, 8, 65],
            "ok": [True, False, True, True, False],
        },
        index=list("abcde"),
    )
    counts = csr_matrix(np.arange(1, 11).reshape(5, 2))
    return write_store(
        tmp_path_factory.mktemp("where") / "s",
        counts=counts,
        obs=obs,
        gene_ids=("ENSG1", "ENSG2"),
        cells_per_part=2,
    )


@pytest.mark.parametrize(
    ("rules", "cells"),
    [
        pytest.param(["donor=d1"], "a", id="one value"),
        pytest.param(["donor=d1,d2"], "abe", id="several values"),
        pytest.param(["donor=d1, left"], "d", id="a value with a comma"),
        pytest.param(["donor!=d1"], "bde", id="a missing value fulfils nothing"),
        pytest.param(["age>=65"], "bce", id="numbers"),
        pytest.param(["age<65", "donor=d1"], "a", id="all rules hold"),
        pytest.param(["age>=65", "age<=65", "ok=False"], "be", id="booleans by their text"),
        pytest.param([], "abcde", id="no rule"),
    ],
)
def test_rules_choose_the_cells_that_fulfil_them_all(store, rules, cells):
    assert "".join(np.array(list("abcde"))[select_cells(store, rules)]) == cells


def test_any_of_several_rules_is_enough_for_a_set_of_a_split(store):
    assert select_any(store, ["donor=d1", "age>65"]).tolist() == [True, False, True, False, False]
    assert not select_any(store, []).any()


@pytest.mark.parametrize(
    ("rule", "what", "fix"),
    [
        pytest.param("donor", "'donor' is no rule", "COLUMN=VALUE", id="no operator"),
        pytest.param("donor=", "'donor=' is no rule", "COLUMN=VALUE", id="no value"),
        pytest.param("donor=d3", "donor has no value 'd3' among its 3", "'d1'", id="unknown value"),
        pytest.param("doner=d1", "obs has no column 'doner'", "", id="unknown column"),
        pytest.param("age>old", "'old' is no number", "COLUMN>=NUMBER", id="no number in the rule"),
        pytest.param("donor>3", "donor holds 'd1', which is no number", "donor=VALUE", id="no number in the column"),
    ],
)
def test_a_rule_that_cannot_be_is_an_error_with_the_way_out(store, rule, what, fix):
    with pytest.raises(StoreError) as caught:
        select_cells(store, [rule])
    assert what in caught.value.what
    assert fix in caught.value.fix
