"""A store on one page. In: a store. Out: one HTML file with plots: no script, no network, nothing to install."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from shlex import quote
from typing import Final

import numpy as np
import numpy.typing as npt

from scmf.core.errors import StoreError
from scmf.data import svg
from scmf.data.facts import describe_store
from scmf.data.store import CellStore
from scmf.data.store_writer import replace_file

LongArray = npt.NDArray[np.int64]

_SAMPLE: Final = 20_000
"""Cells that are read for what the manifest does not know: evenly spaced over the store."""
_BLOCK: Final = 1_024
_BINS: Final = 50
_TOP: Final = 20
_MOST_GROUPS: Final = 60
"""A column with more values than this is no composition."""
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; }
rect { fill: #3b6ea5; } rect:hover { fill: #d9822b; }
text { font: 12px system-ui, sans-serif; fill: #444; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
"""


def write_page(store: CellStore, path: Path) -> None:
    """Write the page; a file of that name is replaced.

    Reads a sample of at most 20,000 cells for the genes with the most counts, and the columns of obs that are labels.

    Raises:
        StoreError: the folder of the file does not exist.
    """
    if not path.parent.is_dir():
        raise StoreError("there is no such folder", where=str(path.parent), fix=f"mkdir -p {quote(str(path.parent))}")
    body = "".join(f"<h2>{escape(title)}</h2>\n{content}\n" for title, content in _sections(store))
    title = escape(store.path.name)
    page = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    page += f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}</body></html>\n"
    replace_file(path, page.encode())


def _sections(store: CellStore) -> Iterator[tuple[str, str]]:
    yield "Facts", f"<pre>{escape(chr(10).join(describe_store(store.manifest)))}</pre>"
    sample = _Sample(store)
    lengths = store.manifest.length_histogram or sample.lengths
    yield "Genes per cell", svg.columns(_bars(lengths), unit="genes") + _middle(lengths, "genes")
    yield "Library size", _library(store, sample)
    yield f"Genes with the most counts ({sample.what})", svg.rows(sample.top_genes())
    yield from _composition(store)
    yield "Findings at conversion", _findings(store)


class _Sample:
    """What a sample of the cells says."""

    def __init__(self, store: CellStore) -> None:
        n = min(_SAMPLE, len(store))
        self.what = f"{n:,} of {len(store):,} cells" if n < len(store) else "all cells"
        self._store = store
        self._sums = np.zeros(store.n_genes, np.float64)
        cells = np.arange(n, dtype=np.int64) * len(store) // max(1, n)
        totals, lengths = [], []
        for start in range(0, n, _BLOCK):
            batch = store.fetch(cells[start : start + _BLOCK])
            self._sums += np.bincount(batch.indices, weights=batch.counts, minlength=store.n_genes)
            ends = np.concatenate([np.zeros(1), np.cumsum(batch.counts, dtype=np.float64)])
            totals.append(ends[batch.indptr[1:]] - ends[batch.indptr[:-1]])
            lengths.append(np.diff(batch.indptr))
        self.totals = np.concatenate(totals).astype(np.int64)
        values, cells_of = np.unique(np.concatenate(lengths), return_counts=True)
        self.lengths = tuple(zip(values.tolist(), cells_of.tolist(), strict=True))

    def top_genes(self) -> list[tuple[str, float, str]]:
        """The genes with the most counts: name, counts, share."""
        from scmf.data.edit.selection import symbols_of

        symbols, total = symbols_of(self._store), self._sums.sum() or 1
        order = np.argsort(-self._sums, kind="stable")[:_TOP]
        ids = [self._store.gene_ids[k] for k in order]
        shares = [f"{self._sums[k] / total:.2%}" for k in order]
        names = [f"{symbols[i]} ({i})" if symbols.get(i, "") not in {"", i} else i for i in ids]
        return [(name, float(self._sums[k]), share) for name, k, share in zip(names, order, shares, strict=True)]


def _bars(pairs: tuple[tuple[int, int], ...]) -> list[tuple[float, float, int]]:
    """A histogram of at most fifty bars over (value, cells) pairs."""
    values, cells = (np.array(side) for side in zip(*pairs, strict=True))
    step = max(1, -(-int(values[-1] - values[0] + 1) // _BINS))
    places = (values - values[0]) // step
    counts = np.bincount(places, weights=cells).astype(np.int64)
    return [(int(values[0]) + k * step, int(values[0]) + (k + 1) * step, int(n)) for k, n in enumerate(counts)]


def _library(store: CellStore, sample: _Sample) -> str:
    """Total counts on a logarithmic axis, from the exact bins of the manifest where they are known."""
    pairs = store.manifest.library_histogram
    if pairs is None:
        from scmf.data.ingest.statistics import library_bins

        values, cells = np.unique(library_bins(sample.totals), return_counts=True)
        pairs = tuple(zip(values.tolist(), cells.tolist(), strict=True))
    picture = svg.columns([(k, k + 1, cells) for k, cells in pairs], unit="counts", value=_bin_start)
    middle = _median(pairs)
    low, high = _bin_start(middle), _bin_start(middle + 1)
    note = "logarithmic axis: each bar begins at 1.09 times the counts of the one before"
    return picture + f"<p>median between {low:,.0f} and {high:,.0f} counts a cell; {note}</p>"


def _bin_start(k: float) -> float:
    """The lowest count of bin k of `library_histogram`: 0, then eighths of a doubling."""
    return float(2 ** ((k - 1) / 8)) if k else 0.0


def _middle(pairs: tuple[tuple[int, int], ...], unit: str) -> str:
    total = sum(cells for _, cells in pairs)
    mean = sum(value * cells for value, cells in pairs) / max(1, total)
    return f"<p>median {_median(pairs):,} {unit}, mean {mean:,.0f}, {pairs[0][0]:,} to {pairs[-1][0]:,}</p>"


def _median(pairs: tuple[tuple[int, int], ...]) -> int:
    values, cells = (np.array(side) for side in zip(*pairs, strict=True))
    return int(values[np.searchsorted(np.cumsum(cells), (cells.sum() + 1) // 2)])


def _composition(store: CellStore) -> Iterator[tuple[str, str]]:
    """Cells by the values of each column of obs that is a label."""
    for column in store.manifest.obs_columns:
        groups = store.obs_groups(column)
        if not 1 <= len(groups.names) <= _MOST_GROUPS:
            continue
        cells = np.bincount(groups.codes + 1, minlength=len(groups.names) + 1)
        named = [("(missing)", int(cells[0])), *zip(groups.names, cells[1:].tolist(), strict=True)]
        bars = sorted(((name, n) for name, n in named if n), key=lambda bar: -bar[1])
        yield f"Cells by {column}", svg.rows([(name, n, f"{n:,} ({n / len(store):.1%})") for name, n in bars])


def _findings(store: CellStore) -> str:
    found = [(source.name, finding) for source in store.manifest.sources for finding in source.findings]
    if not found:
        return "<p>none</p>"
    lines = [
        f"<tr><td>{escape(name)}</td><td>{escape(f.number)}</td><td>{escape(f.what)}</td></tr>" for name, f in found
    ]
    return f"<table><tr><th>source</th><th>number</th><th>what</th></tr>{''.join(lines)}</table>"
