"""Conversion of much: several processes, restarts, bounds, duplicates, and what is computed on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scmf.core.errors import InputError, MachineError, StoreError
from scmf.data.ingest import budget, jobs, workers
from scmf.data.ingest import convert as conversion
from scmf.data.ingest.convert import convert
from scmf.data.ingest.duplicates import find_duplicates
from scmf.data.ingest.making import Making, cells_of_part, usual_memory
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.medians import compute_vocabulary
from scmf.data.store import CellStore
from scmf.data.verify import verify_store

ROOT = Path(__file__).parents[2]


def quiet(_):
    pass


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def small(path, counts, *, first=0, obs=None, layout=csr_matrix):
    """An h5ad file of these counts."""
    counts = np.asarray(counts, np.float32)
    frame = pd.DataFrame(obs or {}, index=[f"c{first + k}" for k in range(len(counts))])
    var = pd.DataFrame(index=[f"ENSG{k:011d}" for k in range(counts.shape[1])])
    anndata.AnnData(layout(counts), obs=frame, var=var).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory, demo_h5ad):
    """The real file, and column-wise cells of the same genes, which have to be turned."""
    cells = anndata.read_h5ad(demo_h5ad)[20:60].copy()
    cells.X = cells.X.tocsc()
    cells.obs["extra"] = [None if k % 7 == 0 else f"note {k % 5}" for k in range(cells.n_obs)]
    path = tmp_path_factory.mktemp("turned") / "csc.h5ad"
    cells.write_h5ad(path)
    return [demo_h5ad, path]


OPTIONS = ConvertOptions(cells_per_part=35, memory=2 << 30, making=Making(medians=True))


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory):
    """The store that one process makes without interruption."""
    dest = tmp_path_factory.mktemp("whole") / "s"
    convert(sources, dest, OPTIONS, log=quiet)
    return CellStore.open(dest)


def test_two_workers_make_the_same_bytes_as_one(sources, whole, tmp_path):
    two = ConvertOptions(cells_per_part=35, memory=2 << 30, making=Making(medians=True, workers=2))
    convert(sources, tmp_path / "s", two, log=quiet)
    assert content(tmp_path / "s") == content(whole.path)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_refusal_in_a_worker_is_the_refusal_of_the_command_and_leaves_nothing(tmp_path):
    counts = np.ones((2000, 300))
    counts[1700, 5] = 0.5
    path = small(tmp_path / "a.h5ad", counts)
    making = Making(workers=2)
    with pytest.raises(InputError, match=r"SCMF-D008.*0\.5 \(cell c1700, gene ENSG00000000005\)"):
        convert([path], tmp_path / "s", ConvertOptions(cells_per_part=500, memory=2 << 30, making=making), log=quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


def test_a_worker_that_is_killed_is_named_with_the_way_out():
    class Gone:
        pid, exitcode = 7, -int(signal.SIGKILL)

        def join(self):
            pass

    ours, theirs = Pipe()
    theirs.close()
    worker = object.__new__(workers._Worker)
    worker.connection, worker.job, worker._process = ours, jobs.ChecksumJob(0), Gone()
    with pytest.raises(MachineError, match="ended by signal SIGKILL") as caught:
        worker.take(quiet)
    assert "--memory or --workers" in caught.value.fix


class Cut(KeyboardInterrupt):
    """Ctrl-C at a chosen moment."""


def cut_after(monkeypatch, n):
    """Let n parts be finished, then press Ctrl-C."""
    finish, left = conversion.ConversionFolder.finish_job, [n]

    def count(self, key, result, attempt):
        finish(self, key, result, attempt)
        left[0] -= key.startswith("part-")
        if not left[0]:
            raise Cut

    monkeypatch.setattr(conversion.ConversionFolder, "finish_job", count)


def test_the_same_command_goes_on_after_an_interruption_and_makes_no_part_twice(sources, whole, tmp_path, monkeypatch):
    cut_after(monkeypatch, 3)
    lines = []
    with pytest.raises(Cut):
        convert(sources, tmp_path / "s", OPTIONS, log=lines.append)
    assert lines[-1] == "finished parts are kept: the same command goes on from there"
    assert [p.name for p in tmp_path.iterdir()] == [".s.partial"]
    monkeypatch.undo()
    made = []
    run = jobs.PartJob.run
    monkeypatch.setattr(jobs.PartJob, "run", lambda self, *a: made.append(self.name) or run(self, *a))
    lines = []
    convert(sources, tmp_path / "s", OPTIONS, log=lines.append)
    assert "going on: 3 of 8 parts were finished before" in lines
    assert made == [f"part-{k:05d}" for k in range(3, 8)]
    assert content(tmp_path / "s") == content(whole.path)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_an_interrupted_conversion_with_other_options_or_sources_starts_afresh_and_says_so(tmp_path, monkeypatch):
    path = small(tmp_path / "a.h5ad", np.ones((40, 5)))
    options = ConvertOptions(cells_per_part=10, making=Making(duplicates="keep"))
    cut_after(monkeypatch, 2)
    with pytest.raises(Cut):
        convert([path], tmp_path / "s", options, log=quiet)
    monkeypatch.undo()
    small(path, np.full((40, 5), 2))
    os.utime(path, ns=(1, 1))  # whatever the clock's steps are, it has changed
    lines = []
    convert([path], tmp_path / "s", options, log=lines.append)
    assert "an unfinished conversion to the same place was removed: it had other sources" in lines
    assert CellStore.open(tmp_path / "s").fetch(range(40)).counts.tolist() == [2] * 200
    assert list(verify_store(tmp_path / "s")) == []


def test_a_source_written_to_meanwhile_is_refused(tmp_path, monkeypatch):
    path = small(tmp_path / "a.h5ad", np.ones((4, 5)))
    finish = conversion.ConversionFolder.finish_job

    def touch(self, *arguments):
        finish(self, *arguments)
        os.utime(path, ns=(1, 1))

    monkeypatch.setattr(conversion.ConversionFolder, "finish_job", touch)
    with pytest.raises(StoreError, match="written to while it was read"):
        convert([path], tmp_path / "s", ConvertOptions(), log=quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


def test_conversions_killed_at_random_moments_end_in_the_same_bytes(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "soak_convert.py", "--kills", "5", "--cells-per-part", "60"]
    done = subprocess.run([*command, "--work-dir", tmp_path], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; equal" in done.stdout


def test_medians_on_the_way_are_those_of_the_vocabulary_command_and_save_its_pass(whole):
    manifest = whole.manifest
    bare = CellStore(whole.path, manifest.replace(gene_medians=None, gene_cells=None), whole.parts)
    seen = []
    counted = compute_vocabulary(bare, name="v", on_cells=seen.append)
    known = compute_vocabulary(whole, name="v", on_cells=lambda _: pytest.fail("the cells were read again"))
    assert sum(seen) == len(whole)
    assert known.gene_ids == counted.gene_ids
    np.testing.assert_array_equal(known.medians, counted.medians)
    assert min(manifest.gene_medians) >= 0


def test_the_histograms_of_the_manifest_are_those_of_the_cells(whole):
    batch = whole.fetch(np.arange(len(whole)))
    lengths, cells = np.unique(np.diff(batch.indptr), return_counts=True)
    assert whole.manifest.length_histogram == tuple(zip(lengths.tolist(), cells.tolist(), strict=True))
    totals = np.add.reduceat(batch.counts.astype(np.int64), batch.indptr[:-1])
    for k, n in whole.manifest.library_histogram:
        assert ((totals >= 2 ** ((k - 1) / 8)) & (totals < 2 ** (k / 8))).sum() == n


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """Two sources: the second repeats two cells of the first with its genes in another order, and one of its own."""
    folder = tmp_path_factory.mktemp("repeated")
    rng = np.random.default_rng(5)
    a = rng.poisson(2, (6, 8))
    b = rng.poisson(2, (5, 8))
    a[3] = b[2] = 0  # cells without counts are equal, and no duplicates
    b[1], b[4], b[3] = a[1], a[5], b[0]
    small(folder / "a.h5ad", a)
    small(folder / "b.h5ad", b, first=6)
    return [folder / "a.h5ad", folder / "b.h5ad"]


def test_cells_with_the_same_counts_are_reported_and_kept(repeated, tmp_path):
    lines = []
    manifest = convert(repeated, tmp_path / "s", ConvertOptions(cells_per_part=4), log=lines.append).manifest
    assert (manifest.n_cells, manifest.duplicate_cells) == (11, 3)
    (line,) = [line for line in lines if line.startswith("duplicates")]
    assert "3 cells have the same counts as an earlier cell (b.h5ad repeats a.h5ad: 2; within b.h5ad: 1)" in line
    assert "such as c7 = c1, c9 = c6, c10 = c5;" in line


def test_duplicates_are_dropped_but_for_the_first_and_the_rest_is_what_it_was(repeated, tmp_path):
    for name, policy in (("all", "keep"), ("some", "drop")):
        options = ConvertOptions(cells_per_part=4, memory=2 << 30, making=Making(duplicates=policy, medians=True))
        convert(repeated, tmp_path / name, options, log=quiet)
    every, some = CellStore.open(tmp_path / "all"), CellStore.open(tmp_path / "some")
    left = [0, 1, 2, 3, 4, 5, 6, 8]
    for batch, name in ((every.fetch(left), "all"), (some.fetch(range(8)), "some")):
        assert name
        np.testing.assert_array_equal(batch.counts, every.fetch(left).counts)
        np.testing.assert_array_equal(batch.indices, every.fetch(left).indices)
    assert list(some.obs([]).index) == [f"c{k}" for k in left]
    assert [(s.first_cell, s.n_cells) for s in some.manifest.sources] == [(0, 6), (6, 2)]
    assert "3 cells with the same counts as an earlier cell were dropped" in some.manifest.history
    assert every.manifest.duplicate_cells is None
    assert list(verify_store(some.path)) == []
    bare = CellStore(some.path, some.manifest.replace(gene_medians=None, gene_cells=None), some.parts)
    kept, counted = (compute_vocabulary(store, name="v").medians for store in (some, bare))
    np.testing.assert_array_equal(kept, counted)


def test_a_part_of_duplicates_only_goes_and_the_next_takes_its_name(tmp_path):
    counts = np.random.default_rng(1).poisson(3, (4, 9))
    path = small(tmp_path / "a.h5ad", np.concatenate([counts, counts, counts + 1]))
    options = ConvertOptions(cells_per_part=4, making=Making(duplicates="drop"))
    manifest = convert([path], tmp_path / "s", options, log=quiet).manifest
    assert [(p.name, p.n_cells) for p in manifest.parts] == [("part-00000", 4), ("part-00001", 4)]
    assert list(verify_store(tmp_path / "s")) == []


def test_duplicates_may_be_refused_and_then_nothing_is_left(repeated, tmp_path):
    with pytest.raises(InputError, match="3 cells have the same counts"):
        convert(repeated, tmp_path / "s", ConvertOptions(making=Making(duplicates="refuse")), log=quiet)
    assert list(tmp_path.iterdir()) == []


def test_cells_whose_hashes_collide_are_no_duplicates_and_any_budget_finds_the_same(whole, tmp_path):
    hashes = np.full(len(whole), 9 << 40, np.uint64)  # every cell a candidate of every other
    hashes.tofile(tmp_path / "h")
    cells, firsts = find_duplicates(whole, [tmp_path / "h"], budget=1 << 30)
    assert cells.tolist() == list(range(210, 250))  # the second source repeats cells of the first
    assert firsts.tolist() == list(range(20, 60))
    hashes = np.random.default_rng(0).integers(1, 2**63, 210).astype(np.uint64)
    np.concatenate([hashes, hashes[20:60]]).tofile(tmp_path / "h")
    for bytes_of_memory in (1 << 30, 1000):
        found = find_duplicates(whole, [tmp_path / "h"], budget=bytes_of_memory)
        assert (found[0].tolist(), found[1].tolist()) == (cells.tolist(), firsts.tolist())


def test_too_little_memory_is_refused_with_what_is_enough(demo_h5ad, tmp_path):
    options = ConvertOptions(memory=300_000_000, making=Making(workers=4))
    with pytest.raises(MachineError, match="300 MB of memory are too little for 4 workers") as caught:
        convert([demo_h5ad], tmp_path / "s", options, log=quiet)
    assert "--memory" in caught.value.fix
    assert "fewer --workers" in caught.value.fix
    assert list(tmp_path.iterdir()) == []
    assert usual_memory(1) == 512 << 20


def test_a_disk_that_is_too_small_is_refused_before_the_start(demo_h5ad, tmp_path, monkeypatch):
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(StoreError, match=r"about 0\.01 GB are needed and 0\.00 GB are free") as caught:
        convert([demo_h5ad], tmp_path / "s", ConvertOptions(), log=quiet)
    assert "--skip-space-check" in caught.value.fix
    assert list(tmp_path.iterdir()) == []
    convert([demo_h5ad], tmp_path / "s", ConvertOptions(making=Making(skip_space_check=True)), log=quiet)


@pytest.mark.parametrize(
    ("cells", "parts"), [(1, 1), (99_999, 1), (200_000, 4), (3_000_000, 16), (100_000_000, 100), (100_000_001, 101)]
)
def test_parts_are_even_at_most_a_million_and_enough_for_several_workers(cells, parts):
    size = cells_of_part(cells)
    assert -(-cells // size) == parts
    assert size <= 1_000_000


def test_columns_of_obs_that_need_all_rows_to_know_their_type_are_as_anndata_has_them(whole, sources):
    expected = anndata.read_h5ad(sources[1]).obs["extra"]
    assert whole.obs(["extra"])["extra"][:210].isna().all()
    assert whole.obs(["extra"])["extra"][210:].astype(str).tolist() == expected.astype(str).tolist()
