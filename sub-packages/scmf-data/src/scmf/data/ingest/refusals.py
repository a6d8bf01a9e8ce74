"""The old name of `scmf.data.ingest.findings.refuse`, until every reader imports it from there."""

from __future__ import annotations

from scmf.data.ingest.findings import refuse

__all__ = ["refuse"]
