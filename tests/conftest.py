"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# As scmf-train does, before torch is loaded: see scmf.train.cli_train.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from scmf.data.ingest.convert import convert
from scmf.data.ingest.plan import ConvertOptions
from scmf.data.store import CellStore

LONGEST_FIRST = (
    "test_sharded.py",
    "test_docs.py",
    "test_resume.py",
    "test_demo.py",
    "test_launch.py",
    "test_cli_train.py",
    "test_layouts.py",
    "test_optimizer_kinds.py",
    "test_soak.py",
    "test_convert_scale.py",
    "test_faults.py",
)
"""Files that take longest: begun first, so that no process is left alone with one of them at the end."""

DEMO = Path(__file__).parents[1] / "data" / "mix3cl_celseq2_dropseq_counts.h5ad"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; tests inside a file stay in order."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session")
def demo_h5ad() -> Path:
    """The real counts file that the repository ships: 210 cells, raw counts, Ensembl ids."""
    return DEMO


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory) -> CellStore:
    """That file as a store of five parts, converted once a session. Read only: copy it before damaging it."""
    dest = tmp_path_factory.mktemp("demo") / "store"
    convert([DEMO], dest, ConvertOptions(cells_per_part=50), log=lambda _: None)
    return CellStore.open(dest)
