"""Reading by requests: what a memory map gives, from files that may fail."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from scmf.core.errors import StoreError
from scmf.data import reading
from scmf.data.bench import forget
from scmf.data.bench_cold import bench_cold, cold_lines
from scmf.data.config import CellsConfig
from scmf.data.masks import Corruption
from scmf.data.pread import PreadTable, ask_for_ranges, read_ranges
from scmf.data.rank import RankTokenizer
from scmf.data.readahead import ask_for_cells, expect_random_access
from scmf.data.reading import choose_reading, file_system_of, memory_bytes
from scmf.data.store import CellStore
from scmf.data.stream import Replica
from scmf.data.vocabulary import load_vocabulary

IDS = np.random.default_rng(0).integers(0, 210, 300)


@pytest.fixture
def both(demo_store):
    return CellStore.open(demo_store.path, read="mmap"), CellStore.open(demo_store.path, read="pread")


@pytest.mark.parametrize("ids", [IDS, np.arange(40, 120), np.array([], np.int64), np.array([209, 209, 0])])
def test_requests_give_what_the_memory_map_gives(both, ids):
    mapped, asked = (store.fetch(ids) for store in both)
    for name in ("indptr", "indices", "counts"):
        assert np.array_equal(getattr(mapped, name), getattr(asked, name)), name
    assert np.array_equal(both[0].lengths(ids), both[1].lengths(ids))


def test_tokens_do_not_depend_on_how_values_are_read(both):
    tokenizer = RankTokenizer(load_vocabulary("geneformer-v1"), gene_ids=both[0].gene_ids, seq_length=2048)
    mapped, asked = (tokenizer.encode(store, IDS) for store in both)
    assert np.array_equal(mapped.ids, asked.ids)
    assert np.array_equal(mapped.offsets, asked.offsets)


def test_a_store_read_by_requests_stays_so_in_another_process(both):
    again = pickle.loads(pickle.dumps(both[1]))
    assert again.reading.mode == "pread"
    assert np.array_equal(again.fetch(IDS).counts, both[0].fetch(IDS).counts)


@pytest.mark.parametrize("mode", ["mmap", "pread"])
def test_ids_outside_the_store_are_an_error_either_way(demo_store, mode):
    with pytest.raises(IndexError, match="cell id 210"):
        CellStore.open(demo_store.path, read=mode).fetch([3, 210])


def test_cells_that_follow_each_other_are_one_request(demo_store):
    path = demo_store.parts[0].path / "X" / "data" / "c" / "0"
    handle = os.open(path, os.O_RDONLY)
    into = np.zeros(64, np.uint8)
    starts = np.array([0, 16, 40], np.int64)
    sizes = np.array([16, 8, 24], np.int64)
    at = np.uint64(into.ctypes.data) + np.array([0, 16, 24], np.uint64)
    try:
        files = np.full(3, handle, np.int32)
        assert read_ranges(files, starts, sizes, at, 0) == 3
        assert ask_for_ranges(files, starts, sizes, os.POSIX_FADV_WILLNEED) == 0
        assert ask_for_ranges(files, starts, sizes, 99) == 2  # the first two are one range
        assert read_ranges(np.array([-1], np.int32), starts[:1], sizes[:1], at[:1], 0) == 0
    finally:
        os.close(handle)
    raw = path.read_bytes()
    assert into[:48].tobytes() == raw[:24] + raw[40:64]


def test_a_file_cut_while_it_is_read_is_an_error_that_names_it(demo_h5ad, demo_store, tmp_path):
    copy = tmp_path / "s"
    _copy(demo_store.path, copy)
    store = CellStore.open(copy, read="pread")
    store.fetch([0])
    os.truncate(copy / "part-00000" / "X" / "data" / "c" / "0", 100)
    with pytest.raises(StoreError, match="the file ends before byte") as caught:
        store.fetch(np.arange(50))
    assert caught.value.where.endswith("part-00000/X/data/c/0")
    assert len(str(caught.value).splitlines()) == 3


def test_a_damaged_indptr_is_named_when_read_by_requests(demo_store, tmp_path):
    copy = tmp_path / "s"
    _copy(demo_store.path, copy)
    store = CellStore.open(copy, read="pread")
    store.prove_boundaries()  # as they were
    with (copy / "part-00000" / "X" / "indptr" / "c" / "0").open("r+b") as file:
        file.seek(8 * 7)
        file.write(np.int64(2**40).tobytes())
    with pytest.raises(StoreError, match="lies outside") as caught:
        store.fetch(np.arange(50))
    assert caught.value.where.endswith("part-00000/X/indptr")


def test_files_are_closed_with_the_store(demo_store):
    gc.collect()  # what earlier tests have left
    before = set(Path("/proc/self/fd").iterdir())
    store = CellStore.open(demo_store.path, read="pread")
    store.fetch(IDS)
    # A mapping and a handle for each array.
    assert len(set(Path("/proc/self/fd").iterdir()) - before) >= 6 * len(store.parts)
    del store
    gc.collect()
    assert not set(Path("/proc/self/fd").iterdir()) - before


def test_threads_that_begin_together_open_each_file_once(demo_store, monkeypatch):
    opened, open_file = [], os.open
    monkeypatch.setattr(os, "open", lambda *given: opened.append(given) or open_file(*given))
    for _ in range(5):
        store, together = CellStore.open(demo_store.path, read="pread"), threading.Barrier(8)
        opened.clear()

        def read(store=store, together=together):
            together.wait(timeout=300)
            store.fetch(IDS)

        with ThreadPoolExecutor(8) as threads:
            for done in [threads.submit(read) for _ in range(8)]:
                done.result()
        ours = [path for path, *_ in opened if store.path in Path(path).parents]  # numba opens files too
        assert len(ours) == 3 * len(store.parts)


@pytest.mark.parametrize("mode", ["mmap", "pread"])
def test_what_has_been_read_once_takes_no_lock(demo_store, mode):
    """A worker that is forked while another thread of its parent holds a lock would wait for it for ever."""

    class Held:
        def __enter__(self):
            raise AssertionError("a lock is taken")

        def __exit__(self, *_):
            """Never entered."""

    store = CellStore.open(demo_store.path, read=mode)
    store.fetch(IDS)
    store._making = Held()
    if mode == "pread":
        store.table._opening = Held()
    for part in store.parts:
        part._lock = Held()
    ask_for_cells(store, IDS)
    assert np.array_equal(store.fetch(IDS).counts, demo_store.fetch(IDS).counts)


@pytest.mark.parametrize("mode", ["mmap", "pread"])
def test_hints_are_given_either_way_and_change_nothing(demo_store, mode):
    store = CellStore.open(demo_store.path, read=mode)
    expect_random_access(store)
    ask_for_cells(store, IDS)
    assert np.array_equal(store.table.look_up(IDS).lengths, demo_store.lengths(IDS))


def test_auto_takes_requests_on_network_disks_and_for_stores_far_larger_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "memory_bytes", lambda: 10**9)
    monkeypatch.setattr(reading, "file_system_of", lambda _: "ext4")
    assert choose_reading("auto", tmp_path, 8 * 10**9).mode == "mmap"
    assert choose_reading("auto", tmp_path, 9 * 10**9).mode == "pread"
    assert "9.00 GB on ext4, 1.0 GB of memory" in str(choose_reading("auto", tmp_path, 9 * 10**9))
    for network in ("nfs4", "lustre", "fuse.sshfs", "ceph"):
        monkeypatch.setattr(reading, "file_system_of", lambda _, kind=network: kind)
        assert choose_reading("auto", tmp_path, 1).mode == "pread"
        assert choose_reading("mmap", tmp_path, 1).mode == "mmap"


def test_file_system_and_memory_are_those_of_this_machine(tmp_path):
    assert file_system_of(Path("/proc")) == "proc"
    assert file_system_of(tmp_path) not in ("", "unknown", "proc")
    assert 10**7 < memory_bytes() < 10**15


def test_a_disk_is_known_by_its_place_whatever_the_letters(tmp_path, monkeypatch):
    place = tmp_path / "réseau de données"
    place.mkdir()
    escaped = str(place).replace(" ", "\\040")
    lines = f"21 1 8:1 / / rw - ext4 /dev/sda rw\n22 21 0:40 / {escaped} rw,relatime shared:9 - nfs4 far:/x rw\n"
    (tmp_path / "mounts").write_bytes(lines.encode() + b"23 21 8:2 / /\xff rw - xfs /dev/sdb rw\n")
    monkeypatch.setattr(reading, "MOUNTS", tmp_path / "mounts")
    assert file_system_of(place / "store") == "nfs4"
    assert file_system_of(tmp_path) == "ext4"


@pytest.mark.parametrize(
    ("own", "limits"),
    [
        ("0::/jobs/job_7/step_0\n", {"jobs/memory.max": "max", "jobs/job_7/memory.max": "3000000"}),
        ("0::/\n", {"memory.max": "3000000"}),
        ("9:cpu:/a\n4:memory:/jobs/job_7\n", {"memory/jobs/memory.limit_in_bytes": "3000000"}),
        ("0::/of/the/host\n", {"memory.max": "3000000"}),
    ],
    ids=["a job's", "a container's", "version 1", "a container that knows the host's path"],
)
def test_memory_is_the_least_of_the_limits_around_the_process(tmp_path, monkeypatch, own, limits):
    (tmp_path / "own").write_text(own)
    for name, limit in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{limit}\n")
    monkeypatch.setattr(reading, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(reading, "GROUPS", tmp_path)
    assert memory_bytes() == 3_000_000


def _flags_of(path):
    """Flags of this process's mappings of a file, as the kernel tells them."""
    blocks = Path("/proc/self/smaps").read_text().split("VmFlags:")
    return [after.splitlines()[0].split() for before, after in itertools.pairwise(blocks) if str(path) in before]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the flags of a mapping")
def test_a_mapping_is_told_that_access_is_random(demo_store, tmp_path):
    _copy(demo_store.path, tmp_path / "s")
    store = CellStore.open(tmp_path / "s", read="mmap")
    path = store.parts[0].path / "X" / "data" / "c" / "0"
    assert not any("rr" in flags for flags in _flags_of(path))
    expect_random_access(store)
    assert all("rr" in flags for flags in _flags_of(path))
    assert _flags_of(path)


@pytest.mark.parametrize("mode", ["mmap", "pread"])
def test_what_was_read_can_be_let_go_again_and_read_again(demo_store, mode):
    store = CellStore.open(demo_store.path, read=mode)
    before = store.fetch(IDS).counts
    assert 0.0 <= forget(store) <= 1.0
    assert np.array_equal(store.fetch(IDS).counts, before)


def test_the_cold_benchmark_reads_every_way_and_says_when_the_store_is_too_small(demo_store):
    report = bench_cold(demo_store, seconds=0.05)
    assert [rate.read for rate in report.rates] == ["disk", "disk", "mmap", "mmap", "pread", "pread"]
    assert all(rate.cells > 0 for rate in report.rates[2:])
    assert any("read to its end" in note for note in report.notes)
    lines = list(cold_lines(report))
    assert len(lines) == 1 + 6 + len(report.notes)


@pytest.mark.parametrize("order", [{"kind": "random"}, {"kind": "blocks", "block": 4, "window": 16}])
def test_a_replica_reads_the_bytes_of_its_own_cells_and_no_others(demo_store, monkeypatch, order):
    read = []
    original = PreadTable._read

    def count(self, name, parts, offsets, sizes, into):
        if name != "indptr":
            read.append(int(sizes.sum()))
        return original(self, name, parts, offsets, sizes, into)

    monkeypatch.setattr(PreadTable, "_read", count)
    config = CellsConfig.model_validate(
        {
            "store": str(demo_store.path),
            "read": "pread",
            "order": order,
            "tokenizer": {"kind": "rank", "seq_length": 256},
            "global_batch_size": 32,
            "microbatch_tokens": 1024,
        }
    )
    total = 0
    for number in range(4):
        stream = config.open(objective=Corruption(0.15, 0.8, 0.1), seed=1, replica=Replica(number, 4))
        read.clear()
        batch = stream.step(0)
        own = [cell for micro in batch.microbatches for cell in micro.cell_ids.tolist()]
        assert sum(read) == 4 * demo_store.lengths(own).sum()  # uint16 genes and uint16 counts
        total += sum(read)
    assert total == 4 * demo_store.lengths(batch.cell_ids).sum()


def _copy(source, dest):
    import shutil

    shutil.copytree(source, dest)
