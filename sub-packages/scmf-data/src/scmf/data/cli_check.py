"""`scmf-store check`: say everything that is wrong with sources before an hour is spent on them."""

from __future__ import annotations

import argparse
import json
import sys

from scmf.data.cli_sources import add_source_flags, source_options


def add_check(parser: argparse.ArgumentParser) -> None:
    """Flags of the sub-command."""
    add_source_flags(parser)
    parser.add_argument("--full", action="store_true", help="look at every value, as convert does (default: windows)")
    parser.add_argument("--json", action="store_true", help="the facts and findings as one JSON object")


def check(options: argparse.Namespace) -> int:
    """Look at the sources and print what was found; 1 when conversion would refuse them, else 0."""
    from scmf.data.ingest.check_report import report_json, report_lines
    from scmf.data.ingest.inspection import inspect_sources
    from scmf.data.ingest.plan import Request

    request = Request(tuple(options.sources), source_options(options))
    found = inspect_sources(request, full=options.full)
    if options.gene_report is not None:
        from scmf.data.ingest.gene_report import write_gene_report

        write_gene_report(options.gene_report, [(str(s.path), s.genes) for s in found.sources if s.genes is not None])
    text = (
        json.dumps(report_json(found, request), indent=2, allow_nan=False)
        if options.json
        else "\n".join(report_lines(found, request))
    )
    sys.stdout.write(text + "\n")
    return int(any(f.severity == "error" for f in found.findings))
