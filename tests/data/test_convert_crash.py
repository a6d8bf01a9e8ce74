"""Conversion when things go wrong: killed, out of disk, out of memory. A store is whole or not there."""

from __future__ import annotations

import shutil
import subprocess
import sys

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import StoreError
from scmf.core.random import stream
from scmf.data.ingest.convert import convert
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.store import CellStore
from scmf.data.store_writer import StoreWriter

COMMAND = "import sys; from scmf.data.cli import main; main(sys.argv[1:])"


def start(*arguments, before="", **options):
    command = [sys.executable, "-c", before + COMMAND, "convert", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_same_sources_give_the_same_bytes(tmp_path, demo_h5ad, demo_store):
    convert([demo_h5ad], tmp_path / "again", ConvertOptions(cells_per_part=50), log=lambda _: None)
    for path in demo_store.path.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(demo_store.path)).read_bytes()


def check_disk_error(process, folder):
    _, stderr = process.communicate(timeout=120)
    lines = stderr.splitlines()
    assert process.returncode == 1
    assert lines[0].startswith("error: the store could not be written: ")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["where", "fix"]
    assert names(folder) == []


def test_a_file_size_limit_is_three_lines_and_nothing_left(tmp_path, demo_h5ad):
    (tmp_path / "out").mkdir()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
    process = start(demo_h5ad, "--dest", tmp_path / "out" / "store", before=limit)
    check_disk_error(process, tmp_path / "out")


@pytest.mark.parametrize("size", ["1m", "5m"])
def test_a_full_disk_is_three_lines_and_nothing_left(tmp_path, demo_h5ad, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        check_disk_error(start(demo_h5ad, "--dest", disk / "store", "--skip-space-check"), disk)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_error_in_the_middle_removes_what_was_written(tmp_path):
    def interrupted():
        with StoreWriter(tmp_path / "store") as writer:
            writer.new_part(n_genes=3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


def test_two_conversions_to_one_place_do_not_mix(tmp_path):
    with StoreWriter(tmp_path / "store"):
        with (
            pytest.raises(StoreError, match="another conversion to the same destination"),
            StoreWriter(tmp_path / "store"),
        ):
            pass
        assert names(tmp_path) == [".store.partial"]


def test_a_destination_in_use_is_kept_unless_it_is_a_store_and_overwrite_is_said(tmp_path, demo_h5ad, demo_store):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    with pytest.raises(StoreError, match="never removed"):
        StoreWriter(tmp_path / "thesis", overwrite=True)
    with pytest.raises(StoreError, match="a store already") as caught:
        convert([demo_h5ad], demo_store.path, ConvertOptions(), log=lambda _: None)
    assert "--overwrite" in caught.value.fix
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="not a folder"):
        StoreWriter(tmp_path / "file", overwrite=True)


REPORT_PEAK = """
import atexit, sys
def report():
    lines = open("/proc/self/status").read().splitlines()
    sys.stderr.write(next(line.split()[1] for line in lines if line.startswith("VmHWM")) + chr(10))
atexit.register(report)
"""


def peak_bytes(*arguments):
    process = start(*arguments, before=REPORT_PEAK)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return int(stderr.splitlines()[-1]) * 1024


def repeat_cells(path, block, times):
    """Write an h5ad of `times` copies of a block of cells, without ever holding it."""
    n, genes = block.shape
    var = pd.DataFrame(index=[f"ENSG{k:011d}" for k in range(genes)])
    anndata.AnnData(block, var=var).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for name, values in (("data", block.data), ("indices", block.indices)):
            del file["X"][name]
            out = file["X"].create_dataset(name, (times * len(values),), values.dtype, chunks=(1 << 18,))
            for k in range(times):
                out[k * len(values) : (k + 1) * len(values)] = values
        del file["X/indptr"]
        step = block.indptr[:-1].astype(np.int64)
        file["X/indptr"] = np.concatenate([*(step + k * block.nnz for k in range(times)), [times * block.nnz]])
        file["X"].attrs["shape"] = np.array([times * n, genes])
        del file["obs"]
        anndata.io.write_elem(file, "obs", pd.DataFrame(index=[f"c{k}" for k in range(times * n)]))


@pytest.fixture
def large(tmp_path):
    """A folder whose content goes at once: pytest would keep three sessions' gigabytes."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_a_file_larger_than_the_bound_is_converted_within_half_a_gigabyte(large):
    rng = stream(0, "memory")
    counts = csr_matrix((rng.random((500, 4000)) < 0.5).astype(np.float32))
    repeat_cells(large / "a.h5ad", counts, 80)
    assert (large / "a.h5ad").stat().st_size > 600e6
    assert peak_bytes(large / "a.h5ad", "--dest", large / "s") < 500e6
    store = CellStore.open(large / "s")
    assert len(store) == 40_000
    ids = np.array([0, 499, 500, 39_999])
    np.testing.assert_array_equal(store.lengths(ids), np.diff(counts.indptr)[ids % 500])


def test_a_csc_file_is_turned_within_half_a_gigabyte(large):
    rng = stream(0, "memory")
    columns = csr_matrix((rng.random((250, 20_000)) < 0.5).astype(np.float32))  # 250 genes of 20,000 cells, as rows
    repeat_cells(large / "a.h5ad", columns, 8)
    with h5py.File(large / "a.h5ad", "r+") as file:  # rows of genes are columns of cells
        file["X"].attrs["encoding-type"] = "csc_matrix"
        file["X"].attrs["shape"] = np.array([20_000, 2000])
        for name, index in (("obs", [f"c{k}" for k in range(20_000)]), ("var", [f"ENSG{k:011d}" for k in range(2000)])):
            del file[name]
            anndata.io.write_elem(file, name, pd.DataFrame(index=index))
    # 20 million values; their triples alone would be 400 MB, twice in flight.
    assert peak_bytes(large / "a.h5ad", "--dest", large / "s", "--memory", "450MB") < 490e6
    store = CellStore.open(large / "s")
    batch = store.fetch([7])
    cell = np.flatnonzero(columns[:, [7]].toarray())
    np.testing.assert_array_equal(batch.indices, np.concatenate([cell + 250 * k for k in range(8)]))
    assert names(large) == ["a.h5ad", "s"]
