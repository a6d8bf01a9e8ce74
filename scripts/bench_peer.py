"""One peer, measured in its own environment. In: its name, an h5ad file, a folder. Out: one JSON object.

Run by bench_peers.py with the Python of the peer's environment; imports nothing of scmf. Every peer does what its
documentation shows, in one process: random batches of 64 cells as it hands them out, and the same cells as masked
rank tokens, for which all peers but one share the NumPy code below. CPU time is the process's, all threads together.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import os
import resource
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from typing_extensions import override

Array = npt.NDArray[Any]
Rows = tuple[Array, Array, Array]
"""Cells laid end to end: indptr, gene numbers, counts."""
BATCH: Final = 64
SEQ_LENGTH: Final = 2048
_MASK, _FIRST_GENE = 1, 2
_SELECT: Final = 0.15


class Peer(ABC):
    """A way to read random cells of an h5ad file.

    Args:
        source: the file.
        work: folder for what the peer makes of it.
        medians: (n_genes,) median of each gene's scaled counts, 0 where it was never met.
    """

    def __init__(self, source: Path, work: Path, medians: Array) -> None:
        self.source = source
        self.work = work
        self.medians = medians

    packages: tuple[str, ...] = ()
    """What its conversion imports; imported before the clock begins, as scmf's own is."""

    def convert(self) -> bool:
        """Make the peer's own format; False where it reads h5ad as it is."""
        return False

    @abstractmethod
    def batches(self, cells: Array) -> Iterator[Any]:
        """Batches as the peer hands them out.

        Args:
            cells: (batches, BATCH) ids; a peer that draws by itself takes the number only.
        """
        ...

    def rows(self, batch: Any) -> Rows:
        """A batch as CSR arrays."""
        return _csr(batch)

    whole = False
    """It makes masked batches by itself; the others get rank tokens by the NumPy code of this file, and masks."""

    def masked(self, batch: Any, inverse: Array, rng: np.random.Generator) -> object:
        """A batch as masked rank tokens, with as few draws as can be."""
        return few_draws(ranked_batch(self.rows(batch), inverse), len(inverse), rng)

    def usual(self, batch: Any, inverse: Array) -> object:
        """A batch as masked rank tokens, with masks as they are usually made."""
        return usual_draws(ranked_batch(self.rows(batch), inverse), len(inverse))

    def files(self) -> list[Path]:
        """What to drop from memory before a cold measurement."""
        return [self.source]


class Backed(Peer):
    """anndata, backed: `adata.X[ids]`."""

    @override
    def batches(self, cells: Array) -> Iterator[Any]:
        """Batches as the peer hands them out."""
        import anndata

        matrix = anndata.read_h5ad(self.source, backed="r").X
        for ids in cells:
            yield matrix[np.sort(ids)]


class AnnLoaderPeer(Peer):
    """anndata.experimental.AnnLoader over a backed file, shuffled."""

    @override
    def batches(self, cells: Array) -> Iterator[Any]:
        """Batches as the peer hands them out."""
        import anndata
        from anndata.experimental import AnnLoader

        loader = AnnLoader(anndata.read_h5ad(self.source, backed="r"), batch_size=BATCH, shuffle=True)
        for _, batch in zip(range(len(cells)), loader, strict=False):
            yield batch.X

    @override
    def rows(self, batch: Any) -> Rows:
        """A batch as CSR arrays."""
        dense = batch.to_dense().numpy() if hasattr(batch, "to_dense") else np.asarray(batch)
        from scipy.sparse import csr_matrix

        return _csr(csr_matrix(dense))


class ScDatasetPeer(Peer):
    """scDataset over the backed matrix: blocks of one cell (truly random), 16 batches fetched at once."""

    @override
    def batches(self, cells: Array) -> Iterator[Any]:
        """Batches as the peer hands them out."""
        import anndata
        from scdataset import BlockShuffling, scDataset

        backed = anndata.read_h5ad(self.source, backed="r")
        how = {"batch_size": BATCH, "fetch_factor": 16, "fetch_transform": lambda part: part.to_memory().X}
        dataset = scDataset(backed, BlockShuffling(block_size=1), **how)
        for _, batch in zip(range(len(cells)), dataset, strict=False):
            yield batch


class Scdl(Peer):
    """BioNeMo SCDL: its memory map, its DataLoader with its collate function."""

    packages = ("anndata", "bionemo.scdl.io.single_cell_memmap_dataset")

    @override
    def convert(self) -> bool:
        """Make the peer's own format."""
        from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset

        SingleCellMemMapDataset(str(self.work / "scdl"), h5ad_path=str(self.source), use_X_not_raw=True)
        return True

    @override
    def batches(self, cells: Array) -> Iterator[Any]:
        """Batches as the peer hands them out."""
        from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset
        from bionemo.scdl.util.torch_dataloader_utils import collate_sparse_matrix_batch
        from torch.utils.data import DataLoader

        dataset = SingleCellMemMapDataset(str(self.work / "scdl"))
        yield from DataLoader(dataset, batch_sampler=cells.tolist(), collate_fn=collate_sparse_matrix_batch)

    @override
    def rows(self, batch: Any) -> Rows:
        """A batch as CSR arrays."""
        return batch.crow_indices().numpy(), batch.col_indices().numpy(), batch.values().numpy()

    @override
    def files(self) -> list[Path]:
        """What to drop from memory before a cold measurement."""
        return [p for p in (self.work / "scdl").rglob("*") if p.is_file()]


def cells_of(source: str) -> Iterator[dict[str, Array]]:
    """Cells of an h5ad file, one by one, as Hugging Face's generators want them."""
    import anndata

    backed = anndata.read_h5ad(source, backed="r")
    for start in range(0, backed.n_obs, 4096):
        block = backed.X[start : start + 4096]
        for a, b in itertools.pairwise(block.indptr):
            yield {"genes": block.indices[a:b].astype(np.int32), "counts": block.data[a:b]}


class HfDatasets(Peer):
    """Hugging Face datasets: a memory-mapped arrow table with two lists a cell."""

    packages = ("anndata", "datasets")

    @override
    def convert(self) -> bool:
        """Make the peer's own format."""
        from datasets import Dataset

        cache = str(self.work / "cache")
        made = Dataset.from_generator(cells_of, cache_dir=cache, gen_kwargs={"source": str(self.source)})
        made.save_to_disk(str(self.work / "arrow"))
        return True

    @override
    def batches(self, cells: Array) -> Iterator[Any]:
        """Batches as the peer hands them out."""
        from datasets import load_from_disk

        dataset = load_from_disk(str(self.work / "arrow")).with_format("numpy")
        for ids in cells:
            yield dataset[ids.tolist()]

    @override
    def rows(self, batch: Any) -> Rows:
        """A batch as CSR arrays."""
        lengths = [len(genes) for genes in batch["genes"]]
        return np.cumsum([0, *lengths]), np.concatenate(batch["genes"]), np.concatenate(batch["counts"])

    @override
    def files(self) -> list[Path]:
        """What to drop from memory before a cold measurement."""
        return [p for p in (self.work / "arrow").rglob("*") if p.is_file()]


class HfTokens(HfDatasets):
    """Geneformer's way with Hugging Face's own parts: rank tokens made once, then a collator that pads and masks.

    What is read at random is an arrow table with one list of tokens a cell, by `DataCollatorForLanguageModeling`,
    as its Trainer does; the ranks themselves cost nothing here, because they were made with the table.
    """

    whole = True

    def __init__(self, source: Path, work: Path, medians: Array) -> None:
        super().__init__(source, work, medians)
        self._collate: Callable[[list[dict[str, Any]]], object] | None = None

    @override
    def convert(self) -> bool:
        """Make the peer's own format."""
        from datasets import Dataset

        cache, keys = str(self.work / "cache"), {"source": str(self.source), "inverse": inverse_of(self.medians)}
        Dataset.from_generator(tokens_of, cache_dir=cache, gen_kwargs=keys).save_to_disk(str(self.work / "arrow"))
        return True

    @override
    def batches(self, cells: Array) -> Iterator[Any]:
        """Batches as the peer hands them out: as Python lists, which its collator takes."""
        from datasets import load_from_disk

        dataset = load_from_disk(str(self.work / "arrow"))
        for ids in cells:
            yield dataset.__getitems__(ids.tolist())

    @override
    def masked(self, batch: Any, inverse: Array, rng: np.random.Generator) -> object:
        """A batch as masked rank tokens, by the peer's collator."""
        if self._collate is None:
            self._collate = _hf_collator(len(inverse))
        return self._collate(batch)


def tokens_of(source: str, inverse: Array) -> Iterator[dict[str, Array]]:
    """Rank tokens of the cells of an h5ad file, one by one."""
    for cell in cells_of(source):
        yield {"input_ids": rank(cell["counts"], cell["genes"], inverse).astype(np.int32)}


def _hf_collator(n_genes: int) -> Callable[[list[dict[str, Any]]], object]:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    pad, mask = "<pad>", "<mask>"
    words = {pad: 0, mask: _MASK} | {f"g{i}": _FIRST_GENE + i for i in range(n_genes)}
    model = Tokenizer(WordLevel(words, unk_token=pad))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, pad_token=pad, mask_token=mask)
    collator: Callable[[list[dict[str, Any]]], object] = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=_SELECT
    )
    return collator


class AnnBatch(Peer):
    """annbatch: its own shuffled zarr collection, read in chunks of 32 neighbours as its README shows, with zarrs."""

    chunk = 32
    """Neighbours in the collection that are read together."""

    def __init__(self, source: Path, work: Path, medians: Array) -> None:
        super().__init__(source, work, medians)
        import annbatch  # before the clock of the conversion begins
        import zarr

        self._module = annbatch
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})

    @override
    def convert(self) -> bool:
        """Make the peer's own format."""
        collection = self._module.DatasetCollection(self.work / "collection.zarr")
        collection.add_adatas(adata_paths=[self.source], shuffle=True)
        return True

    @override
    def batches(self, cells: Array) -> Iterator[Any]:
        """Batches as the peer hands them out, pass after pass."""
        collection = self._module.DatasetCollection(self.work / "collection.zarr", mode="r")
        # 8,192 cells are read at once, as shown; of few cells an eighth, for the first batch reads them untimed.
        at_once = max(1, min(8192, self.n_cells // 8) // BATCH) * BATCH
        while True:
            loader = self._module.Loader(
                batch_size=BATCH,
                chunk_size=self.chunk,
                preload_nchunks=at_once // self.chunk,
                shuffle=True,
                drop_last=True,
            )
            for batch in loader.use_collection(collection, load_adata=_counts_only):
                yield batch["X"]

    @property
    def n_cells(self) -> int:
        """Cells of the file."""
        import h5py

        with h5py.File(self.source) as file:
            return int(file["X/indptr"].shape[0]) - 1

    @override
    def files(self) -> list[Path]:
        """What to drop from memory before a cold measurement."""
        return [p for p in (self.work / "collection.zarr").rglob("*") if p.is_file()]


class AnnBatchRandom(AnnBatch):
    """The same collection, each cell drawn by itself: as random as scmf's and the other peers' batches."""

    chunk = 1


def _counts_only(group: Any) -> Any:
    """A dataset of the collection without its obs, which would be read for every batch."""
    import anndata

    return anndata.AnnData(X=anndata.io.sparse_dataset(group["X"]))


PEERS: Final[dict[str, type[Peer]]] = {
    "backed h5ad": Backed,
    "AnnLoader": AnnLoaderPeer,
    "scDataset": ScDatasetPeer,
    "BioNeMo SCDL": Scdl,
    "HF datasets": HfDatasets,
    "HF, tokens made before": HfTokens,
    "annbatch": AnnBatch,
    "annbatch, cell by cell": AnnBatchRandom,
}


def _csr(matrix: Any) -> Rows:
    return matrix.indptr, matrix.indices, matrix.data


def inverse_of(medians: Array) -> Array:
    """(n_genes,) float32, one over each median; huge for a gene that was never met."""
    return (1 / np.maximum(medians, np.finfo(np.float32).tiny)).astype(np.float32)


def rank(counts: Array, genes: Array, inverse: Array) -> Array:
    """Tokens of a cell, the gene highest above its median first."""
    value = counts.astype(np.float32)
    # One sort a cell: NumPy sorts two thousand float32 with vector instructions, which no sort over all cells does.
    order = np.argsort(-(value / value.sum() * inverse[genes]))[:SEQ_LENGTH]
    return genes[order] + _FIRST_GENE


def ranked_batch(rows: Rows, inverse: Array) -> Array:
    """Rank tokens of a batch, padded to its longest.

    Args:
        rows: CSR cells.
        inverse: (n_genes,) float32, one over the median of each gene's scaled counts; every gene met has one.

    Returns:
        (cells, W) int64, 0 for padding.
    """
    indptr, genes, counts = rows
    ids = np.zeros((len(indptr) - 1, SEQ_LENGTH), np.int64)
    width = 1
    for row, (a, b) in enumerate(itertools.pairwise(indptr.tolist())):
        tokens = rank(counts[a:b], genes[a:b], inverse)
        ids[row, : len(tokens)] = tokens
        width = max(width, len(tokens))
    return ids[:, :width]


def few_draws(ids: Array, n_genes: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """BERT's masks with one draw a position: what kind of target it is follows from the same number.

    Args:
        ids: (cells, W) int64, 0 for padding.
        n_genes: tokens that a random one is drawn from.
        rng: for the draws.

    Returns:
        input_ids and labels, (cells, W) int64.
    """
    chance = rng.random(ids.shape, np.float32)
    labels = np.full(ids.shape, -100, np.int64)
    chosen = np.flatnonzero((chance < _SELECT) & (ids > 0))
    flat, labels_flat = ids.reshape(-1).copy(), labels.reshape(-1)
    labels_flat[chosen] = flat[chosen]
    share = chance.reshape(-1)[chosen] / _SELECT
    flat[chosen[share < 0.8]] = _MASK
    other = chosen[(share >= 0.8) & (share < 0.9)]
    flat[other] = rng.integers(_FIRST_GENE, n_genes + _FIRST_GENE, len(other))
    return flat.reshape(ids.shape), labels


def usual_draws(ids: Array, n_genes: int) -> tuple[Any, Any]:
    """BERT's masks as they are usually made: three Bernoulli draws and a random token for every position, in torch.

    The operations of transformers' `DataCollatorForLanguageModeling`, which most training scripts use.

    Args:
        ids: (cells, W) int64, 0 for padding.
        n_genes: tokens that a random one is drawn from.

    Returns:
        input_ids and labels, (cells, W) int64 tensors.
    """
    import torch

    seen = torch.from_numpy(ids.copy())
    labels = seen.clone()
    chance = torch.full(labels.shape, _SELECT).masked_fill_(seen == 0, 0.0)
    targets = torch.bernoulli(chance).bool()
    labels[~targets] = -100
    masks = torch.bernoulli(torch.full(labels.shape, 0.8)).bool() & targets
    seen[masks] = _MASK
    others = torch.bernoulli(torch.full(labels.shape, 0.5)).bool() & targets & ~masks
    seen[others] = torch.randint(_FIRST_GENE, n_genes + _FIRST_GENE, labels.shape)[others]
    return seen, labels


def measure(peer: Peer, n_cells: int, *, seconds: float) -> dict[str, float]:
    """Everything that is measured of one peer, in cells a CPU-second; `cold` in cells a second by the clock."""
    found: dict[str, float] = {}
    for package in peer.packages:
        importlib.import_module(package)
    begin, clock = time.process_time(), time.monotonic()
    if peer.convert():
        found["convert"] = n_cells / (time.process_time() - begin)
        found["convert_wall"] = n_cells / (time.monotonic() - clock)
        found["convert_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rng = np.random.default_rng(0)
    cells = rng.integers(0, n_cells, (200_000, BATCH))
    once = rng.permutation(n_cells)[: n_cells // BATCH * BATCH].reshape(-1, BATCH)
    forget(peer.files())
    found["cold"] = _rate(peer.batches(once), lambda batch: batch, seconds, clock=time.monotonic)
    for _ in zip(once, peer.batches(once), strict=False):
        pass  # everything is in memory now
    found["random"] = _rate(peer.batches(cells), lambda batch: batch, seconds)
    inverse = inverse_of(peer.medians)
    found["masked"] = _rate(peer.batches(cells), lambda batch: peer.masked(batch, inverse, rng), seconds)
    if not peer.whole and importlib.util.find_spec("torch") is not None:
        found["usual"] = _rate(peer.batches(cells), lambda batch: peer.usual(batch, inverse), seconds)
    return found


def _rate(
    batches: Iterator[Any], use: Callable[[Any], Any], seconds: float, *, clock: Callable[[], float] = time.process_time
) -> float:
    """Cells per unit of the clock, after one batch to warm up."""
    use(next(batches))
    n, begin, end = 0, clock(), time.monotonic() + seconds
    for batch in batches:
        use(batch)
        n += BATCH
        if time.monotonic() > end:
            break
    return n / max(clock() - begin, 1e-9)


def forget(files: list[Path]) -> None:
    """Ask the system to drop files from memory."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> int:
    """Measure one peer and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("source", type=Path)
    parser.add_argument("medians", type=Path, help="npy file, one number a gene")
    parser.add_argument("work", type=Path)
    parser.add_argument("--cells", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    peer = PEERS[options.peer](options.source, options.work, np.load(options.medians))
    found = measure(peer, options.cells, seconds=options.seconds)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
