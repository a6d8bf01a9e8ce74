"""SequenceStream: every token of training is a target once an epoch, splits share none, documents never meet."""

from __future__ import annotations

import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, StoreError, VocabularyError
from scmf.data.characters import CharVocabulary
from scmf.data.config import CellsConfig, DataConfig, SequencesConfig
from scmf.data.masks import Corruption
from scmf.data.objective import NextToken
from scmf.data.rank import RankTokenizer
from scmf.data.sequences.convert import SequenceWishes, convert_text, convert_tokens
from scmf.data.sequences.split import split_by_hash
from scmf.data.sequences.store import SequenceStore
from scmf.data.sequences.stream import SequenceStream
from scmf.data.sequences.writer import SequenceWriter
from scmf.data.step_stream import Replica
from scmf.data.stream_report import report_stream
from scmf.data.token_table import write_tokens
from scmf.data.vocabulary import load_vocabulary

BERT = Corruption(select=0.15, mask=0.8, random=0.1)
CHINESE = 0x4E00


def quiet(_):
    """No line for people."""


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Four texts in three parts, no character twice: a token's id is its place in the store, and 3."""
    folder = tmp_path_factory.mktemp("texts")
    paths, first = [], CHINESE
    for number, length in enumerate((400, 1, 37, 162)):
        paths.append(folder / f"{number}.txt")
        paths[-1].write_text("".join(map(chr, range(first, first + length))), encoding="utf-8")
        first += length
    convert_text(paths, folder / "store", SequenceWishes(tokens_a_part=401), log=quiet)
    return SequenceStore.open(folder / "store")


@pytest.fixture(scope="module")
def genes():
    """The vocabulary of Geneformer V1."""
    return load_vocabulary("geneformer-v1")


@pytest.fixture(scope="module")
def rows(tmp_path_factory, genes):
    """Two hundred short sequences of genes, some of them equal, in several parts."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(5)
    made = [rng.permutation(np.arange(2, 1000))[: rng.integers(1, 60)].tolist() for _ in range(180)]
    table = pa.table({"input_ids": pa.array([*made, *made[:20]], pa.list_(pa.int32()))})
    pq.write_table(table, folder / "t.parquet")
    wishes = SequenceWishes(tokens_a_part=2000)
    convert_tokens([folder / "t.parquet"], folder / "store", genes, wishes, log=quiet)
    return SequenceStore.open(folder / "store")


def stream_of(store, *, objective=NextToken(), seed=3, replica=Replica(), align=8, **changes):  # noqa: B008
    characters = store.manifest.content == "text"
    values = {
        "kind": "sequences",
        "store": str(store.path),
        "tokenizer": {"kind": "char" if characters else "stored", "seq_length": 16},
        "split": {"kind": "contiguous" if characters else "hash", "validation": 0.2, "test": 0.1},
        "global_batch_size": 4,
        "microbatch_tokens": 48,
    }
    config = SequencesConfig.model_validate(values | changes)
    return SequenceStream(store, config, objective=objective, seed=seed, replica=replica, align=align)


def segments(microbatch):
    """(start, stop) of the segments that hold tokens."""
    bounds = microbatch.cu_seqlens.tolist()
    real = set(microbatch.target_positions.tolist())
    return [(a, b) for a, b in itertools.pairwise(bounds) if a in real]


def targets_of(steps):
    found = [m.targets for step in steps for m in step.microbatches]
    return np.concatenate([np.empty(0, np.int64), *found])


def whole(stream, split):
    batches, number = [], 0
    while (batch := stream.whole(split, number)) is not None:
        batches.append(batch)
        number += 1
    return batches


@settings(max_examples=40, deadline=None)
@given(
    seq_length=st.integers(2, 90),
    batch=st.integers(1, 9),
    replicas=st.integers(1, 4),
    shares=st.sampled_from([(0.2, 0.1), (0.0, 0.0), (0.34, 0.33), (0.01, 0.01)]),
    epoch=st.integers(0, 3),
    way=st.sampled_from(list(itertools.product((True, False), repeat=2))),
)
def test_every_token_of_training_is_a_target_once_an_epoch_for_any_number_of_replicas(  # noqa: PLR0917  # drawn
    texts, seq_length, batch, replicas, shares, epoch, way
):
    packing, moving = way
    changes = {
        "tokenizer": {"kind": "char", "seq_length": seq_length},
        "split": {"kind": "contiguous", "validation": shares[0], "test": shares[1], "move_windows": moving},
        "global_batch_size": batch * replicas,
        "packing": packing,
        "microbatch_tokens": 2 * seq_length if packing else None,
        "micro_batch_size": None if packing else batch,
    }
    streams = [stream_of(texts, replica=Replica(k, replicas), seed=batch, **changes) for k in range(replicas)]
    units, size = streams[0].n_train, batch * replicas
    # As many steps as units are `size` whole epochs, whatever the units of an epoch are.
    steps = [s.step(epoch * units + k * size) for k in range(units) for s in streams]
    n_train = texts.n_tokens - round(600 * shares[0]) - round(600 * shares[1])
    counts = np.bincount(targets_of(steps), minlength=603)
    assert counts[3 : 3 + n_train].tolist() == [size] * n_train
    assert counts.sum() == size * n_train


@pytest.mark.parametrize("objective", [NextToken(), Corruption(select=1.0, mask=1.0, random=0.0)])
@pytest.mark.parametrize("replicas", [1, 3])
def test_validation_and_test_cover_their_splits_once_and_no_split_sees_a_token_of_another(texts, objective, replicas):
    streams = [
        stream_of(texts, objective=objective, replica=Replica(k, replicas), global_batch_size=6)
        for k in range(replicas)
    ]
    ranges = {"train": range(420), "validation": range(420, 540), "test": range(540, 600)}
    for split, expected in ranges.items():
        batches = [batch for stream in streams for batch in whole(stream, split)]
        assert sorted(targets_of(batches).tolist()) == [place + 3 for place in expected]
        seen = np.concatenate([m.input_ids for batch in batches for m in batch.microbatches])
        assert set(seen.tolist()) <= {0, 1, 2, *(place + 3 for place in expected)}
    assert streams[0].n_of("validation") == streams[0].n_validation == 8
    assert streams[0].validation(0).cells == 6
    assert streams[0].validation(2) is None


def test_inputs_are_the_tokens_before_the_targets_and_texts_never_meet(texts):
    stream = stream_of(texts, split={"kind": "contiguous", "validation": 0.0})
    for seen in range(0, 3 * stream.n_train, 4):
        for m in stream.step(seen).microbatches:
            assert m.target_positions.tolist() == [p for a, b in segments(m) for p in range(a, b)]
            target = dict(zip(m.target_positions.tolist(), (m.targets - 3).tolist(), strict=True))
            for a, b in segments(m):
                places = [target[p] for p in range(a, b)]
                assert places == list(range(places[0], places[0] + b - a))
                text = np.searchsorted(texts.places, places, side="right")
                assert len(set(text.tolist())) == 1
                assert (m.input_ids[a + 1 : b] - 3).tolist() == places[:-1]
                first = places[0] in texts.places
                assert m.input_ids[a] == (stream.vocabulary.bos if first else places[0] - 1 + 3)
                assert m.positions[a:b].tolist() == list(range(b - a))


def test_the_first_token_of_a_split_inside_a_text_is_predicted_without_the_one_before(texts):
    stream = stream_of(texts)
    firsts = [
        int(m.input_ids[m.target_positions[list(m.targets).index(420 + 3)]])
        for batch in whole(stream, "validation")
        for m in batch.microbatches
        if 420 + 3 in m.targets
    ]
    assert firsts == [stream.vocabulary.bos]


def test_windows_begin_elsewhere_in_every_epoch_unless_they_are_told_to_stay(texts):
    def firsts(stream, epoch):
        n = stream.n_train
        drawn = np.concatenate([stream.draw(epoch * n + k).cell_ids for k in range(0, n, 4)])
        return set(drawn[:n].tolist())

    moving = stream_of(texts)
    assert len({frozenset(firsts(moving, epoch)) for epoch in range(4)}) > 2
    fixed = stream_of(texts, split={"kind": "contiguous", "validation": 0.2, "test": 0.1, "move_windows": False})
    assert firsts(fixed, 0) == firsts(fixed, 1) == set(range(0, 420, 16))
    assert fixed.draw(0).cell_ids.tolist() != fixed.draw(fixed.n_train).cell_ids.tolist()
    assert moving.fingerprint != fixed.fingerprint


def test_a_step_is_a_function_of_its_position(texts):
    stream, again = stream_of(texts), stream_of(texts)
    positions = list(range(0, 200, 4))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(stream.step, positions))
    for position, one in zip(reversed(positions), reversed(together), strict=True):
        other = again.step(position)
        assert np.array_equal(one.cell_ids, other.cell_ids)
        for a, b in zip(one.microbatches, other.microbatches, strict=True):
            assert np.array_equal(a.input_ids, b.input_ids)
            assert np.array_equal(a.targets, b.targets)
    assert stream.epoch(stream.n_train * 3) == 3.0
    assert not np.array_equal(stream.step(0).cell_ids, stream_of(texts, seed=4).step(0).cell_ids)


def test_packs_keep_to_their_budget_and_shapes_agree(texts):
    stream = stream_of(texts, global_batch_size=10)
    for seen in range(0, 100, 10):
        step = stream.step(seen)
        assert {len(m.input_ids) for m in step.microbatches} == {len(step.microbatches[0].input_ids)}
        for m in step.microbatches:
            assert len(m.input_ids) <= 48
            assert len(m.input_ids) % 8 == 0
            assert m.cu_seqlens[0] == 0
            assert m.cu_seqlens[-1] == len(m.input_ids)
            assert m.longest <= 16
            assert m.tokens == len(m.targets)
        own = sorted(i for m in step.microbatches for i in m.cell_ids.tolist())
        assert own == sorted(step.cell_ids.tolist())


def test_without_a_token_before_the_first_sequences_begin_with_their_second(rows):
    stream = stream_of(rows, tokenizer={"kind": "stored", "seq_length": 64}, microbatch_tokens=256, global_batch_size=8)
    for batch in whole(stream, "validation"):
        for m in batch.microbatches:
            for (a, b), number in zip(segments(m), m.cell_ids.tolist(), strict=True):
                tokens = rows.fetch([number]).ids
                assert m.input_ids[a:b].tolist() == tokens[:-1].tolist()
                assert m.targets[np.isin(m.target_positions, np.arange(a, b))].tolist() == tokens[1:].tolist()


def hidden(stream, store, positions):
    """What the model sees of every sequence of these steps, after a look at what it is to predict."""
    found = {}
    for m in (m for seen in positions for m in stream.step(seen).microbatches):
        ids = m.input_ids.copy()
        ids[m.target_positions] = m.targets
        pieces = [(a, b) for a, b in itertools.pairwise(m.cu_seqlens.tolist()) if ids[a] != 0]
        for number, (a, b) in zip(m.cell_ids.tolist(), pieces, strict=True):
            assert ids[a:b].tolist() == store.fetch([number]).ids[:40].tolist()
            found[number] = m.input_ids[a:b].tolist()
    return found


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_whole_sequences_are_hidden_alike_for_any_number_of_replicas(rows, replicas):
    changes = {"tokenizer": {"kind": "stored", "seq_length": 40}, "microbatch_tokens": 128, "global_batch_size": 12}
    alone = stream_of(rows, objective=BERT, **changes)
    shares = [stream_of(rows, objective=BERT, replica=Replica(k, replicas), **changes) for k in range(replicas)]
    steps = range(0, alone.n_train - 11, 12)
    found = {number: ids for stream in shares for number, ids in hidden(stream, rows, steps).items()}
    assert found == hidden(alone, rows, steps)
    assert len(found) == alone.n_train // 12 * 12
    share = sum(ids.count(1) for ids in found.values()) / sum(map(len, found.values()))
    assert 0.08 < share < 0.18  # 0.15 x 0.8, and at least one target a sequence


def test_a_step_that_reaches_into_the_next_epoch_hides_what_that_epoch_hides(rows):
    changes = {"tokenizer": {"kind": "stored", "seq_length": 40}, "microbatch_tokens": 128}
    reaching = stream_of(rows, objective=BERT, global_batch_size=12, **changes)
    n = reaching.n_train
    later = hidden(stream_of(rows, objective=BERT, global_batch_size=8, **changes), rows, [n])
    both = hidden(reaching, rows, [n - 4])
    assert {number: both[number] for number in later} == later
    earlier = hidden(stream_of(rows, objective=BERT, global_batch_size=8, **changes), rows, range(0, n - 7, 8))
    assert any(earlier[number] != ids for number, ids in later.items() if number in earlier)


def test_equal_sequences_are_on_one_side_and_shares_are_met_to_chance(rows):
    split = stream_of(rows, split={"kind": "hash", "validation": 0.4, "test": 0.3}).config.split
    for seed in range(5):
        sets = split_by_hash(rows.hashes, split, seed=seed)
        side = {i: name for name, chosen in sets.items() for i in chosen.take(np.arange(len(chosen))).tolist()}
        assert sorted(side) == list(range(200))
        assert all(side[i] == side[180 + i] for i in range(20))
    many = np.random.default_rng(1).integers(0, 2**64, 20_000, dtype=np.uint64)
    sizes = {name: len(chosen) for name, chosen in split_by_hash(many, split, seed=1).items()}
    assert sizes == pytest.approx({"train": 6000, "validation": 8000, "test": 6000}, abs=400)


def test_cells_made_tokens_give_the_batches_that_the_cells_give(demo_store, tmp_path, genes):
    tokenizer = RankTokenizer(genes, gene_ids=demo_store.gene_ids, seq_length=64)
    write_tokens(demo_store, tokenizer, tmp_path / "t.parquet", on_cells=lambda _: None)
    convert_tokens([tmp_path / "t.parquet"], tmp_path / "s", genes, log=quiet)
    store = SequenceStore.open(tmp_path / "s")
    shared = {"global_batch_size": 8, "microbatch_tokens": 512}
    cells = CellsConfig.model_validate(
        {"kind": "cells", "store": str(demo_store.path), "tokenizer": {"kind": "rank", "seq_length": 64}, **shared}
    ).open(objective=BERT, seed=1)
    ready = stream_of(store, objective=BERT, tokenizer={"kind": "stored", "seq_length": 64}, **shared)
    assert len(store) == len(demo_store)
    assert ready.vocabulary.fingerprint == cells.vocabulary.fingerprint
    tokens = cells.tokenizer.encode(demo_store, np.arange(210))
    assert np.array_equal(store.fetch(np.arange(210)).ids, tokens.ids)
    assert np.array_equal(store.fetch(np.arange(210)).offsets, tokens.offsets)


def test_a_damaged_id_is_an_error_that_names_the_array(rows, tmp_path):
    copy = shutil.copytree(rows.path, tmp_path / "store")
    path = copy / "part-00000" / "tokens" / "ids" / "c" / "0"
    raw = bytearray(path.read_bytes())
    raw[:4000] = b"\xff" * 4000
    path.write_bytes(raw)
    stream = stream_of(SequenceStore.open(copy), split={"kind": "hash", "validation": 0.0}, global_batch_size=200)
    with pytest.raises(StoreError, match="are not all below the vocabulary's 25,426") as error:
        stream.step(0)
    assert error.value.where == str(path)
    assert error.value.fix.startswith(f"scmf-store verify {copy};")


def test_a_run_is_told_how_its_tokens_are_split_and_cut(texts, rows):
    lines, facts = report_stream(stream_of(texts))
    assert lines == [
        "split  train tokens 0 to 419; validation tokens 420 to 539; test tokens 540 to 599",
        "order  random windows of 16 tokens; windows begin elsewhere in every epoch",
    ]
    assert facts["move_windows"] is True
    lines, _ = report_stream(stream_of(rows))
    assert lines[1] == "order  random sequences"
    assert lines[2].endswith("sequences of 200 are longer than 16 tokens, and cut there")
    assert (stream_of(texts).noun, stream_of(rows).noun) == ("window", "sequence")


@pytest.mark.parametrize(
    ("changes", "kind", "what"),
    [
        ({"tokenizer": {"kind": "char", "seq_length": 16, "characters": 65}}, VocabularyError, "has 600 different"),
        ({"split": {"kind": "contiguous", "validation": 0.0005}}, ConfigError, "leave none for validation"),
        ({"split": {"kind": "hash", "validation": 0.0005}}, ConfigError, "leave none for validation"),
    ],
)
def test_what_the_store_cannot_give_is_refused(texts, changes, kind, what):
    with pytest.raises(kind, match=what) as error:
        stream_of(texts, **changes)
    assert len(str(error.value).splitlines()) == 3


def test_ready_tokens_are_no_characters(rows):
    with pytest.raises(VocabularyError, match=r"ready tokens of geneformer-v1") as error:
        stream_of(rows, tokenizer={"kind": "char", "seq_length": 16})
    assert error.value.fix == "write data.tokenizer.kind: stored"


def test_a_store_elsewhere_is_refused_when_the_config_is_read(texts):
    with pytest.raises(ConfigError, match="is not on a disk"):
        stream_of(texts).config.replace(store="s3://bucket/store")


def cells_config(store):
    values = {"store": str(store.path), "tokenizer": {"seq_length": 64}, "global_batch_size": 8}
    return CellsConfig.model_validate(values | {"kind": "cells", "microbatch_tokens": 512})


def test_ranked_cells_predict_no_next_token(demo_store):
    with pytest.raises(ConfigError, match="the next token is predicted in text") as error:
        cells_config(demo_store).open(objective=NextToken(), seed=1)
    assert error.value.where == "model.task"


def test_the_wrong_kind_of_data_says_which_kind_the_store_is(texts, demo_store):
    with pytest.raises(StoreError, match="this is a store of sequences") as error:
        cells_config(texts).open(objective=BERT, seed=1)
    assert "data.kind: sequences" in error.value.fix
    with pytest.raises(StoreError, match="this is a store of cells"):
        stream_of(texts).config.replace(store=str(demo_store.path)).open(objective=NextToken(), seed=1)


def test_a_sequence_of_one_token_at_the_end_of_a_part_or_of_the_store_is_read_nowhere_else(tmp_path, genes):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, made in zip(paths, ([[9, 8, 7], [5]], [[11, 12, 13], [6]]), strict=True):
        pq.write_table(pa.table({"input_ids": made}), path)
    # Behind the second sequence the other part begins, behind the last one nothing.
    convert_tokens(paths, tmp_path / "s", genes, SequenceWishes(tokens_a_part=4), log=quiet)
    store = SequenceStore.open(tmp_path / "s")
    assert len(store.parts) == 2
    stream = stream_of(store, split={"kind": "hash", "validation": 0.0})
    seen = sorted(m.targets[i] for m in stream.step(0).microbatches for i in range(len(m.targets)))
    assert seen == [7, 8, 12, 13]


def test_sequences_of_one_token_have_nothing_to_predict_unless_it_is_hidden(tmp_path, genes):
    pq.write_table(pa.table({"input_ids": [[5], [6], [7], [8]]}), tmp_path / "t.parquet")
    convert_tokens([tmp_path / "t.parquet"], tmp_path / "s", genes, log=quiet)
    store = SequenceStore.open(tmp_path / "s")
    for kind in ("hash", "contiguous"):
        split = {"kind": kind, "validation": 0.0}
        with pytest.raises(ConfigError, match="has nothing that it could be predicted from"):
            stream_of(store, split=split)
        (microbatch,) = stream_of(store, split=split, objective=BERT).step(0).microbatches
        assert set(microbatch.targets.tolist()) == {5, 6, 7, 8}


def test_a_class_of_ones_own_that_opens_nothing_is_told_to():
    class Own(DataConfig):
        """Says nothing about its batches."""

    own = Own.model_validate(
        {"store": "s", "tokenizer": {"kind": "char", "seq_length": 8}, "global_batch_size": 1, "microbatch_tokens": 8}
    )
    with pytest.raises(ConfigError, match="says nothing about how its batches are made of objective, seed") as error:
        own.open(objective=NextToken(), seed=1)
    assert "give it a method open(**place)" in error.value.fix
    assert own.folders == ()


def test_the_benchmark_measures_conversion_and_feeding(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    from bench_sequences import main

    assert main(["--million", "0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "text: convert",
        "text: windows of 256",
        "text: windows of 1024",
        "ready tokens: convert",
        "ready tokens: masked sequences",
    ]
    assert all(line.endswith("/CPU-s") for line in lines)


@pytest.mark.parametrize("objective", [NextToken(), BERT], ids=["next token", "masked"])
def test_sequences_without_tokens_have_no_targets_wherever_they_lie(tmp_path, objective):
    """The writer takes them, the commands refuse them."""
    vocabulary = CharVocabulary.of("abc")
    with SequenceWriter(tmp_path / "s", vocabulary, content="text", tokens_a_part=8) as writer:
        for length in (0, 8, 0, 5, 0):
            writer.append(np.full(length, len(vocabulary) - 1))
            writer.end_sequence()
        writer.finish(())
    stream = stream_of(
        SequenceStore.open(tmp_path / "s"), objective=objective, split={"kind": "hash", "validation": 0.0}
    )
    assert sum(m.tokens for b in whole(stream, "train") for m in b.microbatches) == 13
    assert {int(cell) for b in whole(stream, "train") for m in b.microbatches for cell in m.cell_ids} == {1, 3}
