"""Damaged bytes: refused with three lines or read as they were; arrays of any kind come back as they went in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import StoreError
from scmf.data.shard import ShardWriter, map_shard

FUZZ = Path(__file__).parents[2] / "scripts" / "fuzz_readers.py"


def test_no_reader_crashes_or_gives_a_number_that_verify_would_not_warn_of(tmp_path):
    """A little of what ci/fuzz does for as long as one likes; in another process, which a crash would end."""
    done = subprocess.run(
        [sys.executable, FUZZ, "--rounds", "2", "--seconds", "600", "--keep", tmp_path / "keep"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 wrong" in done.stdout
    assert not list((tmp_path / "keep").iterdir())


blocks = st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=40), max_size=6)


@settings(deadline=None, max_examples=25)
@given(blocks, st.sampled_from(["uint16", "uint32", "int64", "float32"]), st.data())
def test_an_array_written_in_any_blocks_is_the_same_for_us_and_for_zarr_and_damage_is_no_other_array(
    tmp_path_factory, blocks, dtype, data
):
    folder = tmp_path_factory.mktemp("shard") / "p" / "X" / "data"
    writer = ShardWriter(folder, dtype)
    for block in blocks:
        writer.append(np.array(block, dtype))
    n = writer.close().n
    expected = np.array([value for block in blocks for value in block], dtype)
    assert np.array_equal(map_shard(folder, dtype, n), expected)
    if n:
        assert np.array_equal(zarr.open_array(folder, mode="r")[:], expected)
    path = folder / "c" / "0"
    whole = path.read_bytes()
    # The values are what verify watches over; everything else of the file is checked when it is opened.
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut])
    assert refuses(folder, dtype, n)
    behind = data.draw(st.integers(max(1, n) * expected.itemsize, len(whole) - 1))
    path.write_bytes(whole[:behind] + bytes([whole[behind] ^ 1]) + whole[behind + 1 :])
    assert refuses(folder, dtype, n)


def refuses(folder, dtype, n):
    try:
        map_shard(folder, dtype, n)
    except StoreError:
        return True
    return False
