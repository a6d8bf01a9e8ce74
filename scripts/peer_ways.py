"""Ways to read random cells of an h5ad file, each as its documentation shows. In: the file. Out: batches.

Run in a peer's environment; imports nothing of scmf.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from peer_tokens import (
    FIRST_GENE,
    MASK,
    SELECT,
    Array,
    Rows,
    few_draws,
    inverse_of,
    rank,
    ranked_batch,
    usual_draws,
)
from typing_extensions import override

BATCH: Final = 64


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
    """It makes masked batches by itself; the others get rank tokens by the NumPy code of peer_tokens.py, and masks."""

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
    words = {pad: 0, mask: MASK} | {f"g{i}": FIRST_GENE + i for i in range(n_genes)}
    model = Tokenizer(WordLevel(words, unk_token=pad))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, pad_token=pad, mask_token=mask)
    collator: Callable[[list[dict[str, Any]]], object] = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=SELECT
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
