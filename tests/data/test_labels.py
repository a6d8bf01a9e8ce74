"""Labels from obs: classes and numbers of training cells, what has none, and what cannot be learned."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.batch import Microbatch
from scmf.core.errors import ConfigError, StoreError
from scmf.data.joined import JoinedStore
from scmf.data.labels import describe_labels, read_labels, with_cell_targets
from scmf.data.memory_source import write_store
from scmf.data.objective import ClassColumn, NumberColumn
from scmf.data.split import RunSet, split_cells

N = 400
EVERY = RunSet.of(np.ones(N, bool))


@pytest.fixture(scope="module")
def obs():
    draw = np.random.default_rng(0)
    types = draw.permutation(np.repeat(["b", "a", "rare"], [300, 90, 10]))
    return pd.DataFrame(
        {
            "type": pd.Categorical(np.where(np.arange(N) % 7 == 0, None, types)),
            "only": ["one"] * N,
            "dose": np.where(np.arange(N) % 5 == 0, np.nan, draw.normal(1e9, 3.0, N)),
            "years": pd.Categorical([f"{n % 50}" for n in range(N)]),
            "flat": np.ones(N),
            "wild": np.where(np.arange(N) == 3, np.inf, 1.0),
            "name": [f"cell {n}" for n in range(N)],
        },
        index=[f"c{i}" for i in range(N)],
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory, obs):
    return _store(tmp_path_factory, obs)


def _store(tmp_path_factory, obs):
    counts = csr_matrix(np.random.default_rng(1).poisson(1.0, (len(obs), 5)) + 1)
    folder = tmp_path_factory.mktemp("labels") / "s"
    return write_store(folder, counts=counts, obs=obs, gene_ids=tuple(f"ENSG{i}" for i in range(5)))


def _read(store, column, cells=EVERY):
    return read_labels(store, cells, {"it": column})["it"]


def test_classes_are_the_labels_of_training_cells_in_alphabetical_order(store, obs):
    found = _read(store, ClassColumn("type"))
    assert found.column.classes == ("a", "b", "rare")
    labelled, classes = found.of(np.arange(N))
    assert labelled.tolist() == obs["type"].notna().tolist()
    assert [found.column.classes[c] for c in classes] == obs["type"].dropna().tolist()


def test_a_class_that_no_training_cell_has_gives_other_cells_no_target(store, obs):
    common = (obs["type"] != "rare").to_numpy()
    found = _read(store, ClassColumn("type"), RunSet.of(common))
    assert found.column.classes == ("a", "b")
    labelled, _ = found.of(np.flatnonzero(~common))
    assert not labelled.any()


def test_classes_that_are_listed_keep_their_order_and_the_others_have_no_target(store, obs):
    found = _read(store, ClassColumn("type", ("rare", "a", "c")))
    labelled, classes = found.of(np.arange(N))
    assert (labelled == obs["type"].isin(["rare", "a"]).to_numpy()).all()
    assert {obs["type"].iloc[i] for i in np.flatnonzero(labelled)[classes == 0]} == {"rare"}
    assert any("no training cell is 'c'" in note for note in found.notes)


def test_numbers_are_standardised_by_the_training_cells_alone(store, obs):
    train = split_cells(store, by=None, validation=0.3, test=0.0, seed=0).train
    found = _read(store, NumberColumn("dose"), train)
    values = obs["dose"].to_numpy()
    known = values[train.take(np.arange(len(train)))]
    known = known[~np.isnan(known)]
    assert (found.column.mean, found.column.sd) == pytest.approx((known.mean(), known.std()), rel=1e-12)
    labelled, standard = found.of(np.arange(N))
    assert (labelled == ~np.isnan(values)).all()
    assert standard == pytest.approx((values[labelled] - known.mean()) / known.std(), abs=1e-6)
    assert standard.dtype == np.float32


def test_given_mean_and_sd_are_kept(store):
    found = _read(store, NumberColumn("dose", 1e9, 2.0))
    assert (found.column.mean, found.column.sd) == (1e9, 2.0)


def test_cells_that_are_only_measured_may_be_of_one_class_and_have_one_number_or_none(store, obs):
    rare = np.flatnonzero((obs["type"] == "rare").to_numpy())
    cells = RunSet.of(np.isin(np.arange(N), rare))
    columns = {"type": ClassColumn("type", ("a", "rare")), "flat": NumberColumn("flat", 0.5, 2.0)}
    found = read_labels(store, cells, columns, decided=True)
    assert found["type"].of(rare)[1].tolist() == [1] * len(rare)
    assert found["flat"].of(rare)[1].tolist() == [0.25] * len(rare)
    nothing = RunSet.of(obs["dose"].isna().to_numpy())
    doses = read_labels(store, nothing, {"it": NumberColumn("dose", 1e9, 2.0)}, decided=True)["it"]
    assert not doses.of(nothing.take(np.arange(len(nothing))))[0].any()
    for name, column in columns.items():
        with pytest.raises(ConfigError):
            read_labels(store, cells, {name: column})


def test_numbers_written_as_categories_are_numbers(store):
    assert _read(store, NumberColumn("years")).column.mean == pytest.approx(24.5)


@pytest.mark.parametrize(
    ("column", "error", "words"),
    [
        pytest.param(ClassColumn("typ"), StoreError, ["no column 'typ'", "did you mean column: type?"], id="unknown"),
        pytest.param(NumberColumn("doze"), StoreError, ["did you mean column: dose?"], id="unknown number"),
        pytest.param(ClassColumn("only"), ConfigError, ["training cells have 'one'", "fewer than two"], id="one class"),
        pytest.param(ClassColumn("type", ("a", "x")), ConfigError, ["training cells have 'a'", "rare"], id="one known"),
        pytest.param(ClassColumn("dose"), ConfigError, ["measurements", "kind: regress"], id="measurements"),
        pytest.param(NumberColumn("type"), ConfigError, ["no number", "kind: classify"], id="no numbers"),
        pytest.param(NumberColumn("flat"), ConfigError, ["all are 1.0"], id="all equal"),
        pytest.param(NumberColumn("wild"), ConfigError, ["infinite for 1 cell", "cell 3"], id="infinite"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_a_way_out(store, column, error, words):
    with pytest.raises(error) as caught:
        _read(store, column)
    said = f"{caught.value.what} {caught.value.fix}"
    assert all(word in said for word in words), said
    assert "objective it" in caught.value.where


def test_too_many_classes_are_refused(store, monkeypatch):
    monkeypatch.setattr("scmf.data.labels.MOST_CLASSES", 100)
    with pytest.raises(ConfigError, match="400 different values"):
        _read(store, ClassColumn("name"))


def test_names_of_cells_are_no_classes_unless_they_are_listed(store):
    with pytest.raises(ConfigError) as caught:
        _read(store, ClassColumn("name"))
    assert caught.value.what.startswith("obs column 'name' has 400 different values among 400 training cells")
    assert "classes: [...]" in caught.value.fix
    listed = _read(store, ClassColumn("name", ("cell 1", "cell 2")))
    assert "it: 2 of 2 classes have one training cell each, and can only be memorised" in listed.notes
    assert not any("one training cell" in note for note in _read(store, ClassColumn("type")).notes)


def test_a_joined_store_has_the_labels_of_its_stores(tmp_path_factory, obs, store):
    other = _store(tmp_path_factory, obs.iloc[:30].drop(columns="dose"))
    both = JoinedStore([store, other], weights=[1.0, 1.0])
    everyone = RunSet.of(np.ones(len(both), bool))
    here, there = _read(store, NumberColumn("dose")), _read(both, NumberColumn("dose"), everyone)
    assert there.column == here.column
    assert not there.of(np.arange(N, N + 30))[0].any()
    kinds = _read(both, ClassColumn("type"), everyone)
    assert kinds.of(np.arange(N, N + 30))[1].tolist() == kinds.of(np.arange(30))[1].tolist()


def test_the_description_changes_with_column_classes_and_scale(store):
    said = [
        describe_labels(read_labels(store, EVERY, {"it": column}))["labels of it"]
        for column in (
            ClassColumn("type"),
            ClassColumn("type", ("rare", "a")),
            ClassColumn("years"),
            NumberColumn("dose"),
            NumberColumn("dose", 0.0, 1.0),
        )
    ]
    assert len(set(said)) == len(said)
    assert describe_labels({}) == {}


def test_targets_name_the_segments_of_labelled_cells_also_between_padding(store):
    labels = read_labels(store, EVERY, {"it": ClassColumn("type")})
    cells = np.array([14, 15, 16])  # 14 has no type
    empty = np.zeros(0, np.int32)
    padded = Microbatch(
        input_ids=np.zeros(30, np.int32),
        positions=np.zeros(30, np.int32),
        cu_seqlens=np.array([0, 6, 10, 19, 20, 30], np.int32),  # cells at 0, 10 and 20
        target_positions=empty,
        targets=empty,
        cell_ids=cells,
        tokens=25,
        longest=10,
    )
    targets = with_cell_targets(padded, labels, starts=np.array([0, 10, 20])).cell_targets["it"]
    assert targets.segments.tolist() == [2, 4]
    assert targets.values.tolist() == labels["it"].of(cells)[1].tolist()
    assert with_cell_targets(padded, {}, starts=np.array([0, 10, 20])) is padded
