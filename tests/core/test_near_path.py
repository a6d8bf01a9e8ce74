"""A path that is not there is answered with the neighbour that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from scmf.core.near_path import correction


@pytest.fixture
def folder(tmp_path):
    for name in ("pbmc 4k.h5ad", "kang", ".kang.partial", "other.txt"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_the_neighbour_of_the_nearest_name_is_quoted_for_a_shell(folder):
    assert correction(folder / "pbmc 4k.h5a") == f"Did you mean '{folder}/pbmc 4k.h5ad'?"
    assert correction(folder / "Kang") == f"Did you mean {folder}/kang?"


def test_a_neighbour_that_could_not_have_been_meant_is_not_named(folder):
    assert (
        correction(folder / "kan", accept=lambda near: near.suffix == ".h5ad") == "Check the path for a typing error."
    )


@pytest.mark.parametrize("name", ["zebrafish", "none/kang", "other.txt/kang"])
def test_without_a_near_name_the_path_is_to_be_checked(folder, name):
    assert correction(folder / name) == "Check the path for a typing error."


def test_a_relative_path_stays_relative(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert correction(Path("kan")) == "Did you mean kang?"
