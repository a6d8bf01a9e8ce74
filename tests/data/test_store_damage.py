"""A damaged store: found when it is opened, or byte by byte by verify; never read as other numbers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from scmf.core.errors import StoreError
from scmf.core.random import stream
from scmf.data.store import CellStore
from scmf.data.verify import verify_store


@pytest.fixture
def store(demo_store, tmp_path):
    """A copy to damage."""
    return shutil.copytree(demo_store.path, tmp_path / "store")


def faults(path):
    return list(verify_store(path))


def overwrite(path, offset, raw):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(raw)


def test_a_sound_store_has_no_fault(store):
    assert faults(store) == []


def test_every_flipped_bit_is_found_and_its_file_named(store):
    files = sorted(p for p in store.rglob("*") if p.is_file())
    rng = stream(0, "flips")
    for k in range(200):
        path = files[k % len(files)] if k < len(files) else files[rng.integers(len(files))]
        offset = int(rng.integers(path.stat().st_size))
        sound = path.read_bytes()[offset]
        overwrite(path, offset, bytes([sound ^ (1 << int(rng.integers(8)))]))
        found = faults(store)
        overwrite(path, offset, bytes([sound]))
        name = path.relative_to(store).as_posix()
        assert any(line.startswith(name) for line in found), (name, offset, found)
    assert faults(store) == []


@pytest.mark.parametrize("array", ["data", "indices", "indptr"])
def test_a_store_cut_short_names_the_array_and_the_way_out(store, array):
    path = store / "part-00002" / "X" / array / "c" / "0"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 5)
    with pytest.raises(StoreError, match=r"bytes and should have") as caught:
        CellStore.open(store)
    assert caught.value.where == str(path)
    assert f"scmf-store verify {store}" in caught.value.fix
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
    overwrite(path, 8 * 7, np.int64(value).tobytes())
    opened = CellStore.open(store)
    with pytest.raises(StoreError, match="lies outside") as caught:
        opened.fetch([7])
    assert caught.value.where.endswith("part-00000/X/indptr")
    with pytest.raises(StoreError):
        opened.lengths([6])
    assert len(opened.fetch([20]).counts)


def test_an_index_beyond_the_genes_is_an_error_and_not_another_gene(store):
    overwrite(store / "part-00000" / "X" / "indices" / "c" / "0", 0, np.uint16(60_000).tobytes())
    with pytest.raises(StoreError, match="names gene 60,000"):
        CellStore.open(store).fetch([0])
