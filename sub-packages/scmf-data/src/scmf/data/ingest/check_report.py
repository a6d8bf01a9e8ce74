"""What a check has found, for people and for programs. In: inspections. Out: lines, or one JSON document."""

from __future__ import annotations

from typing import Any, Final

from scmf.core.text import counted
from scmf.data.ingest.findings import Finding, Severity
from scmf.data.ingest.inspection import Inspection, Inspections
from scmf.data.ingest.plan import Request

VERSION: Final = 1
"""Of the JSON document; it changes when a key changes its meaning or goes."""


def report_lines(found: Inspections, request: Request) -> list[str]:
    """A paragraph a source, the findings, and what to do next."""
    lines = [line for source in found.sources for line in _paragraph(source)]
    lines += [str(finding) for finding in found.findings]
    return [*lines, _verdict(found, request)]


def report_json(found: Inspections, request: Request) -> dict[str, Any]:
    """The same as one document; docs/doctor.md describes its keys."""
    findings = found.findings
    return {
        "version": VERSION,
        "sources": [_facts(source, name) for source, name in zip(found.sources, request.names, strict=True)],
        "findings": [finding.as_dict() for finding in findings],
        "errors": _number(findings, "error"),
        "warnings": _number(findings, "warning"),
        "notes": _number(findings, "note"),
    }


def _facts(source: Inspection, name: str) -> dict[str, Any]:
    matrix, genes, seen = source.matrix, source.genes, source.seen
    return {
        "path": str(source.path),
        "name": name,
        "format": source.format or None,
        "converts": source.plan is not None,
        "counts": source.plan.element if source.plan else None,
        "layout": matrix.layout if matrix else None,
        "n_cells": matrix.n_cells if matrix else None,
        "n_genes": matrix.n_genes if matrix else None,
        "gene_column": genes.column if genes else None,
        "genes_with_id": sum(map(bool, genes.ids)) if genes else None,
        "species": sorted(genes.species) if genes else [],
        "cells_looked_at": seen.cells if seen else 0,
        "complete": seen is not None and seen.complete,
        "vocabularies": {s.vocabulary: {"genes": s.genes, "molecules": round(s.molecules, 6)} for s in source.shares},
    }


def _paragraph(source: Inspection) -> list[str]:
    if source.plan is not None:
        return [*source.plan.facts(), f"  looked: {_scope(source)}"]
    if source.matrix is None:
        return [f"{source.path}: {source.format or 'not opened'}"]
    shape = f"{counted(source.matrix.n_cells, 'cell')} x {counted(source.matrix.n_genes, 'column')}"
    return [f"{source.path}: {source.format}, {shape}, {source.matrix.layout}", f"  looked: {_scope(source)}"]


def _scope(source: Inspection) -> str:
    seen = source.seen
    if seen is None or (seen.cells == 0 and seen.n_cells):
        return "at a few windows of values, and at no whole cells; --full looks at all"
    if seen.complete:
        return f"at every value of all {counted(seen.cells, 'cell')}"
    return f"at {seen.cells:,} of {seen.n_cells:,} cells; --full looks at all, as conversion does"


def _verdict(found: Inspections, request: Request) -> str:
    findings = found.findings
    said = [counted(_number(findings, severity), severity) for severity in ("error", "warning", "note")]
    files = counted(len(found.sources), "source")
    if any(f.severity == "error" for f in findings):
        return f"{files}: {', '.join(said)}; conversion would refuse"
    command = request.converting(request.sources[0].absolute().with_suffix(".store").name).command()
    return f"{files}: {', '.join(said)}; convert with: {command}"


def _number(findings: list[Finding], severity: str | Severity) -> int:
    return sum(f.severity == severity for f in findings)
