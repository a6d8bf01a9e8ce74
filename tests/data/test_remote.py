"""Stores on object storage: fetched once, checked, within a limit; told plainly when they cannot be read."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from scmf.core.errors import MachineError, StoreError
from scmf.data import remote
from scmf.data.config import CellsConfig
from scmf.data.joined import JoinedStore, open_store
from scmf.data.manifest import dump_manifest
from scmf.data.masks import Corruption
from scmf.data.remote import RemoteFiles, open_remote
from scmf.data.store import CellStore


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCMF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SCMF_CACHE_BYTES", raising=False)
    monkeypatch.setattr(remote, "_IN_USE", set())
    return tmp_path / "cache"


@pytest.fixture
def address(demo_store):
    """The demo store in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    memory.put(str(demo_store.path), "/bucket/store", recursive=True)
    yield "memory://bucket/store"
    memory.rm("/bucket", recursive=True)


def _whole_files(cache):
    return sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file() and p.name[0] != ".")


def test_cells_and_labels_are_those_of_the_store(address, demo_store):
    store = open_remote(address)
    ids = np.random.default_rng(0).permutation(210)
    assert np.array_equal(store.fetch(ids).counts, demo_store.fetch(ids).counts)
    assert store.obs().equals(demo_store.obs())
    assert store.fingerprint == demo_store.fingerprint
    assert "from the cache of memory://" in str(store.reading)


def test_only_the_parts_that_are_read_are_fetched_and_each_once(address, cache, monkeypatch):
    fetched = []
    fetch = RemoteFiles.fetch
    monkeypatch.setattr(RemoteFiles, "fetch", lambda self, name, to: fetched.append(name) or fetch(self, name, to))
    store = open_remote(address)
    assert _whole_files(cache) == []
    store.fetch([0, 49])
    assert sorted(fetched) == [f"part-00000/X/{name}/c/0" for name in ("data", "indices", "indptr")]
    open_remote(address).fetch([5, 120])
    assert len(fetched) == len(set(fetched)) == 6


def test_a_remote_store_works_in_another_process_and_in_a_run(address, demo_store):
    store = pickle.loads(pickle.dumps(open_remote(address)))
    assert np.array_equal(store.fetch([7, 3]).counts, demo_store.fetch([7, 3]).counts)
    fields = {
        "tokenizer": {"kind": "rank", "seq_length": 128},
        "global_batch_size": 16,
        "microbatch_tokens": 512,
    }
    batches = [
        CellsConfig.model_validate({**fields, "store": where})
        .open(objective=Corruption(0.15, 0.8, 0.1), seed=1)
        .step(0)
        for where in (address, str(demo_store.path))
    ]
    assert np.array_equal(batches[0].microbatches[0].input_ids, batches[1].microbatches[0].input_ids)
    assert isinstance(JoinedStore([open_store(address), demo_store], weights=[1, 1]), CellStore)


def test_a_damaged_transfer_is_refused_and_not_kept(address, cache):
    path = "/bucket/store/part-00001/X/data/c/0"
    memory = fsspec.filesystem("memory")
    raw = bytearray(memory.cat_file(path))
    raw[1000] ^= 1
    memory.pipe_file(path, bytes(raw))
    store = open_remote(address)
    store.fetch([0])
    with pytest.raises(StoreError, match="arrived with checksum") as caught:
        store.fetch([60])
    assert caught.value.where == "memory://bucket/store/part-00001/X/data/c/0"
    assert len(str(caught.value).splitlines()) == 3
    assert not any("part-00001/X/data" in name for name in _whole_files(cache))
    assert not list(cache.rglob("*.arriving"))


def test_a_missing_file_and_a_missing_store_are_named(address):
    fsspec.filesystem("memory").rm("/bucket/store/part-00002/X/indptr/c/0")
    with pytest.raises(StoreError, match="there is no such file") as caught:
        open_remote(address).fetch([110])
    assert caught.value.where.endswith("part-00002/X/indptr/c/0")
    with pytest.raises(StoreError, match=r"cannot read manifest\.json: there is no such file"):
        open_remote("memory://bucket/elsewhere")


def test_what_was_used_least_recently_makes_room(address, demo_store, cache, monkeypatch):
    open_remote(address).fetch(np.arange(210))
    everything = _whole_files(cache)
    for age, name in enumerate(everything):
        os.utime(cache / name, (1_000_000 + age, 1_000_000 + age))
    held = sum((cache / name).stat().st_size for name in everything)
    monkeypatch.setattr(remote, "_IN_USE", {cache / everything[1]})
    monkeypatch.setenv("SCMF_CACHE_BYTES", str(held + 10))
    first = (cache / everything[0]).stat().st_size
    remote.make_room(first + 10, where="x")
    assert _whole_files(cache) == everything[1:]
    remote.make_room(first + 20, where="x")
    assert everything[1] in _whole_files(cache)  # in use by this process
    assert everything[2] not in _whole_files(cache)


def test_a_store_larger_than_the_cache_is_refused_with_both_numbers(address, demo_store, monkeypatch):
    sizes = {name: record.bytes for name, record in demo_store.manifest.parts[0].files.items()}
    monkeypatch.setenv("SCMF_CACHE_BYTES", str(sizes["X/indptr/c/0"] + sizes["X/indices/c/0"] + 5))
    with pytest.raises(StoreError, match="in use and") as caught:
        open_remote(address).fetch([0])
    assert "SCMF_CACHE_BYTES" in caught.value.fix
    monkeypatch.setenv("SCMF_CACHE_BYTES", "much")
    with pytest.raises(StoreError, match="'much' is no number of bytes"):
        open_remote(address).fetch([0])


def _on_its_way(cache, n_bytes):
    """A file of another process that has not arrived yet, and its lock."""
    folder = cache / "another store" / "part-00000"
    folder.mkdir(parents=True)
    (folder / ".0.lock").touch()
    (folder / ".0.arriving").touch()
    os.truncate(folder / ".0.arriving", n_bytes)
    return folder


def test_what_other_processes_are_fetching_is_counted(address, cache, monkeypatch):
    folder = _on_its_way(cache, 10_000_000)
    monkeypatch.setenv("SCMF_CACHE_BYTES", "10000100")
    with (folder / ".0.lock").open() as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="10,000,000 are in use and"):
            open_remote(address).fetch([0])
    assert (folder / ".0.arriving").exists()


def test_what_a_killed_process_has_left_of_a_file_is_removed(address, cache, demo_store, monkeypatch):
    folder = _on_its_way(cache, 10_000_000)
    monkeypatch.setenv("SCMF_CACHE_BYTES", "10000100")
    assert np.array_equal(open_remote(address).fetch([0]).counts, demo_store.fetch([0]).counts)
    assert not (folder / ".0.arriving").exists()


def test_a_file_that_another_process_removes_meanwhile_is_fetched_again(address, cache, demo_store, monkeypatch):
    open_remote(address).fetch([0])
    use, gone = os.utime, []

    def remove_first(path):
        if not gone:
            gone.append(path)
            Path(path).unlink()
        use(path)

    monkeypatch.setattr(os, "utime", remove_first)
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: [*listed(self, pattern), self / "removed meanwhile"])
    assert np.array_equal(open_remote(address).fetch([0]).counts, demo_store.fetch([0]).counts)
    assert len(gone) == 1


def test_a_damaged_manifest_is_refused(address, demo_store):
    raw = dump_manifest(demo_store.manifest)
    fsspec.filesystem("memory").pipe_file("/bucket/store/manifest.json", raw[:-5] + b"xx" + raw[-3:])
    with pytest.raises(StoreError, match="manifest is damaged"):
        open_remote(address)


@pytest.mark.parametrize("url", ["nothing://bucket/store", "://x"])
def test_an_unknown_kind_of_address_is_refused(url):
    with pytest.raises((StoreError, MachineError)) as caught:
        open_store(url)
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MachineError) as caught:
        open_store("s3://bucket/store")
    assert caught.value.fix == "pip install 'scmf-data[s3]'"


def test_two_processes_that_need_one_file_fetch_it_once(demo_store, tmp_path, cache):
    """Processes share the cache through a lock; a plain folder stands for the storage."""
    shutil.copytree(demo_store.path, tmp_path / "far")
    code = (
        "import sys; from scmf.data.remote import open_remote; "
        "print(int(open_remote(sys.argv[1]).fetch(range(210)).counts.sum()))"
    )
    command = [sys.executable, "-c", code, f"file://{tmp_path / 'far'}"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    assert {int(out) for out, _ in printed} == {int(demo_store.fetch(np.arange(210)).counts.sum())}
    assert len(_whole_files(cache)) == 3 * len(demo_store.parts)


def test_s3_itself(demo_store, monkeypatch):
    """A local S3 server; where moto and s3fs are installed."""
    server = pytest.importorskip("moto.server", reason="the local S3 server (moto) is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    service = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    service.start()
    try:
        endpoint = "http://{}:{}".format(*service.get_host_and_port())
        for name, value in (("AWS_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        files = s3fs.S3FileSystem(endpoint_url=endpoint)
        files.mkdir("bucket")
        files.put(str(demo_store.path), "bucket/store", recursive=True)
        store = open_store("s3://bucket/store")
        ids = np.random.default_rng(0).permutation(210)
        assert np.array_equal(store.fetch(ids).counts, demo_store.fetch(ids).counts)
        with pytest.raises(StoreError, match=r"cannot read manifest\.json"):
            open_store("s3://bucket/absent")
    finally:
        service.stop()
