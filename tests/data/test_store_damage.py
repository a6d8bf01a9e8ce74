"""A damaged store: found when it is opened, or byte by byte by verify; never read as other numbers."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from scmf.core.errors import StoreError
from scmf.data.config import CellsConfig
from scmf.data.ingest.convert import convert
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.labels import read_labels
from scmf.data.masks import Corruption
from scmf.data.objective import NumberColumn
from scmf.data.split import RunSet
from scmf.data.store import CellStore
from scmf.data.stream import CellStream
from scmf.data.verify import verify_store

EVERYTHING = RunSet(np.zeros(1, np.int64), np.array([0, 210]))
NUMBERS = "n_counts"
"""A column of numbers of the demo store."""


@pytest.fixture
def store(demo_store, tmp_path):
    """A copy to damage."""
    return shutil.copytree(demo_store.path, tmp_path / "the store")


def faults(path):
    return list(verify_store(path))


def overwrite(path, offset, raw):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(raw)


def test_a_sound_store_has_no_fault(store):
    assert faults(store) == []


def test_every_flipped_byte_is_found_and_its_file_named(demo_h5ad, tmp_path, capsys, monkeypatch):
    """The script that flips 1,000: here every file of a store of two parts once, and some more."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    from flip_bytes import main

    convert([demo_h5ad], tmp_path / "s", ConvertOptions(cells_per_part=105), log=lambda _: None)
    n_files = sum(1 for p in (tmp_path / "s").rglob("*") if p.is_file())
    assert main([str(tmp_path / "s"), "--flips", str(n_files + 10)]) == 0
    assert f"{n_files + 10} flips in {n_files} files: verify found {n_files + 10}\n" in capsys.readouterr().out


@pytest.mark.parametrize("array", ["data", "indices", "indptr"])
def test_a_store_cut_short_names_the_array_and_the_way_out(store, array):
    path = store / "part-00002" / "X" / array / "c" / "0"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 5)
    with pytest.raises(StoreError, match=r"bytes and should have") as caught:
        CellStore.open(store)
    assert caught.value.where == str(path)
    assert caught.value.fix.startswith(f"scmf-store verify {shlex.quote(str(store))};")
    assert any(line.startswith(f"part-00002/X/{array}/c/0") for line in faults(store))


def test_a_missing_part_is_an_error_when_the_store_is_opened(store):
    shutil.rmtree(store / "part-00003")
    with pytest.raises(StoreError, match="file is missing") as caught:
        CellStore.open(store)
    assert "part-00003" in caught.value.where
    assert all("part-00003" in line and "missing" in line for line in faults(store))


def test_swapped_parts_are_found_and_told_apart(store):
    (store / "part-00000").rename(store / "aside")
    (store / "part-00001").rename(store / "part-00000")
    (store / "aside").rename(store / "part-00001")
    with pytest.raises(StoreError):
        CellStore.open(store)
    assert any(line.startswith("part-00000/X/data") for line in faults(store))


def test_swapped_parts_of_one_size_are_named_by_verify(store):
    for name in ("X/data/c/0", "X/indices/c/0", "X/indptr/c/0"):
        a, b = store / "part-00000" / name, store / "part-00001" / name
        if name == "X/indptr/c/0":  # both parts have 50 cells, so these files have one size
            raw = a.read_bytes()
            a.write_bytes(b.read_bytes())
            b.write_bytes(raw)
    assert any("this is the file of part-00001" in line for line in faults(store))
    with pytest.raises(StoreError, match="cells end at"):
        CellStore.open(store)


def test_a_manifest_of_an_earlier_store_is_found(store, demo_store, tmp_path):
    from scmf.data.manifest import dump_manifest

    manifest = demo_store.manifest
    stale = manifest.replace(
        parts=manifest.parts[:4], n_cells=200, n_values=sum(p.n_values for p in manifest.parts[:4])
    )
    (store / "manifest.json").write_bytes(dump_manifest(stale))
    assert faults(store) == ["part-00004: not part of the store"]


def test_a_missing_part_is_one_line_with_its_cells(store):
    shutil.rmtree(store / "part-00001")
    assert faults(store) == ["part-00001: missing, with its 50 cells"]


def test_a_file_that_cannot_be_read_is_not_called_missing_or_damaged(store, monkeypatch):
    """Simulated, because the tests may run as a user to whom nothing is forbidden."""
    import scmf.data.verify as module

    def refuse(path, describe=module.describe_file):
        if path.match("part-00003/X/data/c/0"):
            raise PermissionError(13, "Permission denied", str(path))
        return describe(path)

    monkeypatch.setattr(module, "describe_file", refuse)
    assert faults(store) == ["part-00003/X/data/c/0: cannot be read: Permission denied"]


def test_a_folder_that_cannot_be_read_is_one_line_and_not_many_missing_files(store, monkeypatch):
    def refuse(path, scan=os.scandir):
        if str(path).endswith("part-00001/X"):
            raise OSError(5, "Input/output error", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert faults(store) == ["part-00001/X: cannot be read: Input/output error"]


def test_a_manifest_that_cannot_be_read_is_said_to_be_unreadable(store, monkeypatch):
    def refuse(path, read=Path.read_bytes):
        if path.name == "manifest.json":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert faults(store) == ["manifest.json: cannot be read: Permission denied"]


def test_something_that_is_no_file_does_not_stop_verify(store):
    path = store / "part-00000" / "X" / "zarr.json"
    path.unlink()
    os.mkfifo(path)
    assert faults(store) == ["part-00000/X/zarr.json: not a file"]


def test_an_added_file_is_a_fault(store):
    (store / "part-00001" / "obs" / "notes.txt").write_text("mine")
    (store / "README").write_text("mine")
    assert faults(store) == ["README: not part of the store", "part-00001/obs/notes.txt: not part of the store"]


def test_an_edited_manifest_is_refused(store):
    path = store / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"human"', b'"mouse"'))
    with pytest.raises(StoreError, match="damaged or edited"):
        CellStore.open(store)
    assert faults(store) == ["manifest.json: the manifest is damaged or edited: its bytes do not give its own checksum"]


def test_a_folder_without_a_store_says_how_to_make_one(tmp_path):
    with pytest.raises(StoreError, match="not a cell store") as caught:
        CellStore.open(tmp_path)
    assert "scmf-store convert" in caught.value.fix
    with pytest.raises(StoreError, match="no such store"):
        faults(tmp_path / "nowhere")


@pytest.mark.parametrize("value", [-1, 10**9])
def test_an_indptr_that_points_outside_is_an_error_and_not_a_crash(store, value):
    path = store / "part-00000" / "X" / "indptr" / "c" / "0"
    opened = CellStore.open(store)
    opened.prove_boundaries()  # as they were
    overwrite(path, 8 * 7, np.int64(value).tobytes())
    with pytest.raises(StoreError, match="lies outside") as caught:
        opened.fetch([7])
    assert caught.value.where.endswith("part-00000/X/indptr")
    with pytest.raises(StoreError):
        opened.lengths([6])
    assert len(opened.fetch([20]).counts)


def _config(store):
    tokenizer = {"kind": "rank", "vocabulary": "geneformer-v1", "seq_length": 64}
    sizes = {"global_batch_size": 4, "microbatch_tokens": 256}
    return CellsConfig.parse(
        {"kind": "cells", "store": str(store.path), "tokenizer": tokenizer} | sizes, source="a test"
    )


def flip(path, offset):
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("read", ["mmap", "pread"])
@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda store: store.fetch(np.arange(60)), id="cells"),
        pytest.param(lambda store: store.lengths(np.arange(60)), id="lengths"),
        pytest.param(
            lambda store: CellStream(store, _config(store), objective=Corruption(0.15, 0.8, 0.1), seed=1), id="a run"
        ),
    ],
)
def test_a_boundary_that_moved_by_one_value_is_found_before_a_cell_of_the_part_is_used(store, use, read):
    path = store / "part-00001" / "X" / "indptr" / "c" / "0"
    flip(path, 8 * 20)
    opened = CellStore.open(store, read=read)
    with pytest.raises(StoreError, match="do not give the manifest's checksum") as caught:
        use(opened)
    assert caught.value.where == str(path)
    assert caught.value.fix.startswith(f"scmf-store verify {shlex.quote(str(store))};")


@pytest.mark.parametrize(
    ("column", "read"),
    [
        pytest.param("cell_line", lambda store: store.obs_groups("cell_line"), id="groups"),
        pytest.param("cell_line", lambda store: store.obs(["batch"]), id="table"),
        pytest.param(NUMBERS, lambda store: read_labels(store, EVERYTHING, {"n": NumberColumn(NUMBERS)}), id="labels"),
    ],
)
def test_no_label_is_read_from_a_table_with_a_flipped_bit(store, column, read):
    paths = [p for p in (store / "part-00001" / "obs" / column).rglob("0") if p.is_file()]
    assert paths
    read(CellStore.open(store))
    for path in paths:
        raw = path.read_bytes()
        flip(path, len(raw) // 2)
        with pytest.raises(StoreError, match="do not give the manifest's checksum") as caught:
            read(CellStore.open(store))
        assert caught.value.where == str(path)
        path.write_bytes(raw)


def test_a_column_is_read_while_another_one_is_damaged(store):
    flip(next(p for p in (store / "part-00001" / "obs" / "batch").rglob("0")), 3)
    assert CellStore.open(store).obs_groups("cell_line").names


def test_an_index_beyond_the_genes_is_an_error_and_not_another_gene(store):
    overwrite(store / "part-00000" / "X" / "indices" / "c" / "0", 0, np.uint16(60_000).tobytes())
    with pytest.raises(StoreError, match="names gene 60,000"):
        CellStore.open(store).fetch([0])
