"""obs of a part, written in pieces: the same table as in one piece, in memory that does not grow with it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import read_elem

from scmf.core.errors import InputError
from scmf.data import obs_writer
from scmf.data.ingest.table import NodeTable
from scmf.data.obs import concat_obs
from scmf.data.obs_writer import ObsSpool


def frame(n=4, *, first=0):
    columns = {
        "text": [f"t{k}" for k in range(n)],
        "some": [None if k % 3 else f"s{k}" for k in range(n)],
        "label": pd.Categorical(["x", None] * (n // 2), categories=["y", "x"], ordered=True),
        "code": pd.Categorical([3, 1] * (n // 2)),
        "whole": np.arange(n, dtype=np.int32),
        "real": np.linspace(0, 1, n),
        "yes": [True, False] * (n // 2),
        "maybe": pd.array([True, None] * (n // 2), dtype="boolean"),
        "count": pd.array([7, None] * (n // 2), dtype="Int64"),
        "none": pd.Categorical([None] * n),
    }
    return pd.DataFrame(columns, index=pd.Index([f"c{first + k}" for k in range(n)], dtype=object))


def written(folder, frames):
    spool = ObsSpool(folder / "spool")
    for piece in frames:
        spool.add(piece)
    group = zarr.open_group(folder / "part", mode="w")
    spool.write(group)
    assert not (folder / "spool").exists()
    return group["obs"]


def test_a_table_in_pieces_is_the_table_in_one_piece_with_its_types(tmp_path):
    whole = frame(12)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = read_elem(written(tmp_path / "a", [whole]))
    pieces = read_elem(written(tmp_path / "b", [whole[:2], whole[2:7], whole[7:]]))
    pd.testing.assert_frame_equal(pieces, one)
    kept = [c for c in whole.columns if c not in {"some", "none"}]
    pd.testing.assert_frame_equal(one[kept], whole[kept])
    assert one["some"].astype(object).where(one["some"].notna(), None).tolist() == whole["some"].tolist()
    assert one["none"].isna().all()


def test_sources_that_disagree_about_a_column_meet_as_they_do_in_memory(tmp_path):
    other = pd.DataFrame(
        {
            "whole": [1.5],
            "yes": [3],
            "text": pd.Categorical(["q"]),
            "real": ["w"],
            "maybe": [True],
            "new": [2],
            "label": pd.Categorical(["z"]),
        },
        index=pd.Index(["d"], dtype=object),
    )
    frames = [frame(), other]
    found, expected = read_elem(written(tmp_path, frames)), concat_obs(frames)
    assert list(found.columns) == list(expected.columns)
    for column in expected.columns:
        assert found[column].dtype.kind == expected[column].dtype.kind, column
        assert found[column].astype(str).tolist() == expected[column].astype(str).tolist(), column


def test_text_of_too_many_kinds_with_missing_values_is_nullable_text(tmp_path, monkeypatch):
    monkeypatch.setattr(obs_writer, "_MOST_CATEGORIES", 3)
    values = [None, *(f"note {k}" for k in range(5))]
    node = written(tmp_path, [pd.DataFrame({"note": values}, index=pd.Index(list("abcdef"), dtype=object))])
    assert node["note"].attrs["encoding-type"] == "nullable-string-array"
    assert [None if pd.isna(v) else v for v in read_elem(node)["note"]] == values
    assert [None if pd.isna(v) else v for v in NodeTable(node).column("note")] == values


def test_dates_are_refused_with_the_line_that_mends_them(tmp_path):
    dates = pd.DataFrame({"day": pd.to_datetime(["2026-01-01"])}, index=pd.Index(["a"], dtype=object))
    with pytest.raises(InputError, match="obs column day holds datetime64") as caught:
        ObsSpool(tmp_path / "spool").add(dates)
    assert caught.value.fix.endswith("adata.obs['day'] = adata.obs['day'].astype(str)")


def test_memory_does_not_grow_with_the_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(obs_writer, "_TEXT_ROWS", 1000)

    def peak(frames):
        folder = tmp_path / str(frames)
        folder.mkdir()
        rows = pd.DataFrame({f"c{k}": [f"a text of some length {i} {k}" for i in range(1000)] for k in range(3)})
        tracemalloc.start()
        written(folder, [rows] * frames)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(40) < 2 * peak(4)
