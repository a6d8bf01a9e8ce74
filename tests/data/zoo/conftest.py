"""What all animals share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def gene_tables_stay(monkeypatch):
    """Planning lets go of the gene tables, for the sake of memory; here they would be read for every animal again."""
    monkeypatch.setattr("scmf.data.ingest.inspection.release_tables", lambda: None)
