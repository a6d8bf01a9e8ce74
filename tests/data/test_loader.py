"""The loader for other trainers: the trainer's own cells and masks, in their shapes, resumable anywhere."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402
from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: E402

from scmf.core.batch import Microbatch  # noqa: E402
from scmf.core.errors import ConfigError  # noqa: E402
from scmf.data.config import CellsConfig, SplitConfig  # noqa: E402
from scmf.data.config_order import BalancedConfig, BlockOrderConfig  # noqa: E402
from scmf.data.loader import BERT, CellIterableDataset, CellLoader, HeldOutDataset, LoaderConfig, Replica  # noqa: E402
from scmf.data.loader_batch import padded_batch  # noqa: E402
from scmf.data.masks import Corruption  # noqa: E402

SEQ = 128
OLD_CALL = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 calls it in its constructor


@pytest.fixture(scope="module")
def config(demo_store):
    return LoaderConfig(store=str(demo_store.path), batch_size=8, seq_length=SEQ, seed=5)


@pytest.fixture(scope="module")
def first_pass(config):
    """All batches of one pass of the padded loader."""
    return list(CellLoader(config))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain(config):
    """What another process makes the same config of."""
    return config.model_dump(include={"store", "batch_size", "seq_length", "seed"})


def trainer_stream(config, **changes):
    """Cells as scmf's trainer has them, by a data section with small packs."""
    values = {
        "kind": "cells",
        "store": config.store,
        "tokenizer": {"kind": "rank", "vocabulary": "geneformer-v1", "seq_length": SEQ},
        "global_batch_size": 8,
        "microbatch_tokens": 256,
    }
    data = CellsConfig.model_validate(values | changes)
    return data.open(objective=BERT, seed=config.seed, replica=Replica(), align=128)


def cells_of(step, *, pad):
    """cell id -> (tokens the model sees, targets by place), from the trainer's packs."""
    cells = {}
    for microbatch in step.microbatches:
        bounds = microbatch.cu_seqlens
        starts = [(a, b) for a, b in itertools.pairwise(bounds) if microbatch.input_ids[a] != pad]
        targets = dict(zip(microbatch.target_positions.tolist(), microbatch.targets.tolist(), strict=True))
        for cell, (a, b) in zip(microbatch.cell_ids.tolist(), starts, strict=True):
            places = {p - int(a): t for p, t in targets.items() if a <= p < b}
            cells[cell] = (microbatch.input_ids[a:b].tolist(), places)
    return cells


def cells_of_batch(batch):
    """The same from a padded or a packed batch of the loader."""
    if "attention_mask" in batch:
        lengths = batch["attention_mask"].sum(1).tolist()
        rows = [(batch["input_ids"][i, :n], batch["labels"][i, :n]) for i, n in enumerate(lengths)]
    else:
        ends = list(itertools.pairwise(batch["cu_seqlens"].tolist()))[: len(batch["cell_ids"])]
        rows = [(batch["input_ids"][a:b], batch["labels"][a:b]) for a, b in ends]
    return {
        cell: (ids.tolist(), {i: t for i, t in enumerate(labels.tolist()) if t != -100})
        for cell, (ids, labels) in zip(batch["cell_ids"].tolist(), rows, strict=True)
    }


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_cells_and_masks_are_those_of_the_trainer(config, packed):
    loader = CellLoader(config.replace(packed=packed))
    stream = trainer_stream(config)
    for step, batch in zip(range(0, 80, 8), loader, strict=False):
        assert cells_of_batch(batch) == cells_of(stream.step(step), pad=stream.vocabulary.pad)


def test_a_padded_batch_has_a_row_a_cell_and_nothing_behind_its_end(first_pass):
    for batch in first_pass:
        shape = batch["input_ids"].shape
        assert shape == batch["attention_mask"].shape == batch["labels"].shape
        assert shape[1] == batch["attention_mask"].sum(1).max() <= SEQ
        outside = batch["attention_mask"] == 0
        assert (batch["input_ids"][outside] == 0).all()
        assert (batch["labels"][outside] == -100).all()
        assert (batch["labels"] != -100).any(1).all()
        assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_a_packed_batch_names_where_cells_begin_and_end(config):
    batch = next(iter(CellLoader(config.replace(packed=True, workers=0))))
    bounds = batch["cu_seqlens"]
    assert bounds.dtype == torch.int32
    assert bounds[0] == 0
    assert bounds[-1] == len(batch["input_ids"]) == len(batch["position_ids"])
    assert batch["max_seqlen"] == torch.diff(bounds).max()
    starts = bounds[:-1].long()
    assert (batch["position_ids"][starts] == 0).all()
    assert len(batch["cell_ids"]) == 8


def test_two_passes_see_every_cell_and_leave_none_out(config, first_pass):
    loader = CellLoader(config)
    seen = [cell for _ in range(3) for batch in loader for cell in batch["cell_ids"].tolist()]
    n = loader.stream.n_train
    assert len(seen) == 3 * (n // 8) * 8
    assert len(set(seen[:n])) == n
    assert seen[:n] != seen[n : 2 * n]
    assert seen[: len(first_pass) * 8] == [cell for batch in first_pass for cell in batch["cell_ids"].tolist()]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_loader_resumed_inside_a_pass_gives_the_batches_that_were_to_come(config, first_pass, workers):
    loader = CellLoader(config.replace(workers=workers))
    for _, _ in zip(range(7), loader, strict=False):
        pass
    state = json.loads(json.dumps(loader.state_dict()))
    again = CellLoader(config)
    again.load_state_dict(state)
    rest = list(again)
    assert len(rest) == len(first_pass) - 7
    assert all(map(same, rest, first_pass[7:]))
    assert again.state_dict() == {**state, "cells_seen": len(first_pass) * 8}


def test_a_state_of_other_batches_is_refused_with_what_differs(config):
    state = CellLoader(config).state_dict()
    for change, name in (
        ({"seed": 6}, "seed: 5"),
        ({"seq_length": 64}, "tokenizer"),
        ({"batch_size": 4}, "cells a step: 8"),
    ):
        with pytest.raises(ConfigError, match=name):
            CellLoader(config.replace(**change)).load_state_dict(state)


def test_replicas_share_each_step_and_each_cell_has_the_same_mask(config):
    whole = CellLoader(config.replace(batch_size=8))
    shares = [CellLoader(config.replace(batch_size=4), replica=Replica(number=k, of=2)) for k in range(2)]
    for batch, *parts in itertools.islice(zip(whole, *shares, strict=True), 5):
        together = {}
        for part in parts:
            together |= cells_of_batch(part)
        assert together == cells_of_batch(batch)


def test_without_corruption_cells_are_whole_and_have_no_labels(config, first_pass):
    plain = list(CellLoader(config.replace(corruption=None)))
    for before, after in zip(plain, first_pass, strict=True):
        assert "labels" not in before
        chosen = after["labels"] != -100
        assert torch.equal(before["input_ids"][~chosen], after["input_ids"][~chosen])
        assert torch.equal(before["input_ids"][chosen], after["labels"][chosen])


def test_columns_of_obs_become_numbers_with_names_and_numbers_stay_what_they_are(config, demo_store):
    loader = CellLoader(config.replace(obs={"line": "cell_line", "molecules": "n_counts"}))
    batch = next(iter(loader))
    obs = demo_store.obs(["cell_line", "n_counts"]).iloc[batch["cell_ids"].numpy()]
    assert [loader.obs_names["line"][k] for k in batch["line"].tolist()] == obs["cell_line"].astype(str).tolist()
    assert batch["molecules"].tolist() == obs["n_counts"].tolist()
    assert (batch["line"].dtype, batch["molecules"].dtype) == (torch.int64, torch.float32)
    assert loader.obs_names["molecules"] == ()


def test_a_column_is_called_labels_only_where_nothing_else_is(config):
    with pytest.raises(ConfigError, match="'labels', which a batch has already"):
        config.replace(obs={"labels": "cell_line"})
    batch = next(iter(CellLoader(config.replace(obs={"labels": "cell_line"}, corruption=None))))
    assert batch["labels"].shape == (8,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"batchsize": 8}, "did you mean `batch_size`", id="misspelt key"),
        pytest.param({"seq_length": "8"}, "must be a whole number", id="text for a number"),
        pytest.param({"vocabulary": "geneformer"}, "did you mean geneformer-v2", id="vocabulary"),
        pytest.param({"batch_size": 500}, "at most 200", id="more cells than train"),
        pytest.param(
            {"order": BlockOrderConfig(), "sampling": BalancedConfig(by="batch")}, "order: {kind: ra", id="two"
        ),
    ],
)
def test_a_wrong_setting_is_an_error_with_a_way_out(config, change, words):
    with pytest.raises(ConfigError) as caught:
        CellLoader(LoaderConfig(**({"store": config.store, "batch_size": 8, "seq_length": 64} | change)))
    assert words in str(caught.value)


def test_a_replica_outside_the_others_is_refused(config):
    with pytest.raises(ConfigError, match="no replica 2 of 2"):
        CellLoader(config, replica=Replica(number=2, of=2))


def test_where_several_processes_were_started_somebody_says_whose_batches_they_are(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    # Another test may have made a world of this one process, which cannot be left again.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match="one of 2 processes, and torch"):
        CellLoader(config)
    with pytest.raises(ConfigError, match="one of 2 processes, and a dataset"):
        CellIterableDataset(config)
    assert (
        len(CellIterableDataset(config, replica=Replica(number=1, of=2)))
        == len(CellLoader(config, replica=Replica())) // 2
    )


def test_order_sampling_and_split_are_those_of_the_data_section(config):
    asked = {"order": BlockOrderConfig(block=4, window=32), "split": SplitConfig(by="batch", validation=0.3)}
    stream = trainer_stream(config, **{name: section.model_dump() for name, section in asked.items()})
    drawn = [step for step, _ in zip(range(0, 24, 8), CellLoader(config.replace(**asked)), strict=False)]
    batches = list(itertools.islice(CellLoader(config.replace(**asked)), len(drawn)))
    assert [b["cell_ids"].tolist() for b in batches] == [stream.draw(step).cell_ids.tolist() for step in drawn]
    balanced = CellLoader(config.replace(sampling=BalancedConfig(by="batch"), obs={"batch": "batch"}))
    drawn = torch.cat([batch["batch"] for _ in range(4) for batch in balanced])
    assert abs(torch.bincount(drawn)[0] / len(drawn) - 0.5) < 0.08


def test_validation_is_the_same_every_time_and_has_no_training_cell(config, first_pass):
    loader = CellLoader(config)
    held_out = loader.held_out()
    first, second = list(held_out), list(DataLoader(HeldOutDataset(config), batch_size=None))
    assert len(first) == len(held_out) == 2
    assert all(map(same, first, second))
    cells = {cell for batch in first for cell in batch["cell_ids"].tolist()}
    assert len(cells) == loader.stream.n_validation
    assert not cells & {cell for batch in first_pass for cell in batch["cell_ids"].tolist()}


def test_the_dataset_gives_the_batches_of_the_pass_that_it_is_set_to(config, first_pass):
    dataset = CellIterableDataset(config)
    batches = DataLoader(dataset, batch_size=None)
    passes = [list(batches)]
    dataset.set_epoch(1)
    passes.append(list(batches))
    assert [len(batches), len(CellLoader(config))] == [len(first_pass)] * 2
    expected = CellLoader(config)
    assert all(map(same, itertools.chain(*passes), itertools.chain(expected, expected)))


def test_the_dataset_does_not_give_a_pass_twice_unless_it_is_told_to(config, first_pass):
    dataset = CellIterableDataset(config)
    next(iter(dataset))
    with pytest.raises(ConfigError, match="pass 0 has been begun already"):
        next(iter(dataset))
    dataset.set_epoch(0)
    assert same(next(iter(dataset)), first_pass[0])


def test_the_dataset_begins_where_it_is_told_to(config, first_pass):
    dataset = CellIterableDataset(config, start=len(first_pass) + 3)
    dataset.set_epoch(1)
    rest = list(dataset)
    assert len(rest) == len(first_pass) - 3
    loader = CellLoader(config)
    assert all(map(same, rest, itertools.islice(itertools.chain(loader, loader), len(first_pass) + 3, None)))


WORKERS = """
import hashlib, itertools, json, pickle
from torchdata.stateful_dataloader import StatefulDataLoader
from scmf.data.loader import CellIterableDataset, LoaderConfig

def digest(batch):
    state = hashlib.sha256()
    for name in sorted(batch):
        state.update(name.encode() + batch[name].numpy().tobytes())
    return state.hexdigest()

def start():
    dataset = CellIterableDataset(LoaderConfig.model_validate({config!r}))
    return dataset, StatefulDataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)

dataset, loader = start()
dataset.set_epoch(1)
batches = iter(loader)
before = [digest(next(batches)) for _ in range(5)]
state = pickle.loads(pickle.dumps(loader.state_dict()))
del batches
dataset, again = start()
again.load_state_dict(state)
rest = [digest(batch) for batch in again]
try:
    list(again)
except RuntimeError as error:
    assert "dataset.set_epoch(2)" in str(error), error
else:
    raise SystemExit("a pass came twice")
dataset.set_epoch(2)
print(json.dumps([before + rest, [digest(batch) for batch in again]]))
"""


def test_worker_processes_give_the_same_batches_in_order_and_go_on_where_they_were(config, first_pass):
    """In a process of its own, which has no threads yet when it forks its workers; they live on for the next pass."""
    done = subprocess.run(
        [sys.executable, "-c", WORKERS.replace("{config!r}", repr(plain(config)))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loader = CellLoader(config)
    _, *expected = [[digest(batch) for batch in loader] for _ in range(3)]
    assert json.loads(done.stdout) == expected


def digest(batch):
    state = hashlib.sha256()
    for name in sorted(batch):
        state.update(name.encode() + batch[name].numpy().tobytes())
    return state.hexdigest()


@OLD_CALL
def test_a_stateful_loader_without_workers_goes_on_where_it_was(config, first_pass):
    loader = StatefulDataLoader(CellIterableDataset(config), batch_size=None)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    again = StatefulDataLoader(CellIterableDataset(config), batch_size=None)
    again.load_state_dict(loader.state_dict())
    assert all(map(same, itertools.islice(again, 4), first_pass[3:7]))


def test_a_worker_state_of_another_number_of_workers_is_refused(config):
    dataset = CellIterableDataset(config)
    with pytest.raises(ConfigError, match="of 2 workers"):
        dataset.load_state_dict(dataset.state_dict() | {"workers": 2})


HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.startswith({names}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
"""


def run_hiding(code, *names):
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(names=repr(names)) + code], capture_output=True, text=True, check=False
    )


def test_the_loader_needs_neither_model_nor_trainer_nor_megatron(config, first_pass):
    code = f"""
from scmf.data.loader import CellLoader, LoaderConfig
loader = CellLoader(LoaderConfig.model_validate({plain(config)!r}))
print(next(iter(loader))["cell_ids"].tolist())
"""
    done = run_hiding(code, "scmf.model", "scmf.train", "megatron")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == first_pass[0]["cell_ids"].tolist()


def test_without_torch_the_error_names_what_to_install():
    done = run_hiding("import scmf.data.stream, scmf.data.seen; import scmf.data.loader", "torch")
    assert done.returncode == 1
    assert "pip install 'scmf-data[torch]'" in done.stderr


def test_a_corruption_of_ones_own_is_used(config):
    batch = next(iter(CellLoader(config.replace(corruption=Corruption(select=1.0, mask=1.0, random=0.0)))))
    genes = batch["labels"] != -100
    assert torch.equal(genes, batch["attention_mask"] == 1)
    assert len(np.unique(batch["input_ids"][genes])) == 1


def test_rows_of_cells_of_different_lengths_end_where_the_cells_end():
    """Two cells of 3 and 1 tokens, each followed by padding up to 4 positions; the demo's cells are all longer."""
    microbatch = Microbatch(
        input_ids=np.array([7, 1, 9, 0, 5, 0, 0, 0], np.int32),
        positions=np.array([0, 1, 2, 0, 0, 0, 1, 2], np.int32),
        cu_seqlens=np.array([0, 3, 4, 5, 8], np.int32),
        target_positions=np.array([1, 4], np.int32),
        targets=np.array([8, 5], np.int32),
        cell_ids=np.array([30, 10]),
        tokens=4,
        longest=3,
    )
    batch = padded_batch(microbatch, pad=0)
    assert batch["input_ids"].tolist() == [[7, 1, 9], [5, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 8, -100], [5, -100, -100]]
    assert padded_batch(microbatch, pad=0, corrupted=False)["input_ids"].tolist() == [[7, 8, 9], [5, 0, 0]]
