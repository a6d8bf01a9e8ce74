"""Batches for any PyTorch trainer. In: a store and a few settings. Out: dictionaries of tensors, resumable anywhere.

Needs torch (`pip install 'scmf-data[torch]'`), and neither scmf-model nor scmf-train. The cells of a batch and what is
masked in them are those of scmf's own trainer at the same position: a function of the seed and of how many cells have
been seen, whatever the number of workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from scmf.core.batch import StepBatch
from scmf.core.config import Config
from scmf.core.errors import ConfigError, MachineError
from scmf.data.config import CellsConfig, RankTokenizerConfig, SplitConfig
from scmf.data.loader_batch import packed_batch, padded_batch
from scmf.data.lookahead import LookAhead
from scmf.data.masks import Corruption
from scmf.data.step_stream import Replica
from scmf.data.stream import CellStream

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise MachineError(
        f"the loader hands out torch tensors, and torch cannot be imported: {error}",
        where="scmf.data.loader",
        fix="pip install 'scmf-data[torch]'",
    ) from error

Batch = dict[str, torch.Tensor]
State = dict[str, Any]

BERT: Final = Corruption(select=0.15, mask=0.8, random=0.1)
"""Devlin et al., 2019."""


class LoaderConfig(Config):
    """Which cells, as which tokens, in which batches."""

    store: Annotated[str, Field(min_length=1)]
    """Folder written by `scmf-store convert`."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    """Cells a batch of each replica. Packed, replicas share a step's cells by length: this many on average."""
    seq_length: Annotated[int, Field(ge=2, le=65_536)]
    """Tokens kept a cell. Geneformer V1: 2048, V2: 4096."""
    vocabulary: str = "geneformer-v1"
    """A shipped vocabulary (geneformer-v1, geneformer-v2), or the path of a vocabulary file."""
    packed: bool = False
    """Cells end to end with cu_seqlens and position_ids, instead of one padded row a cell with attention_mask."""
    split: SplitConfig = SplitConfig()
    """Which cells train and which are held out, as in the `data` section."""
    corruption: Corruption | None = BERT
    """What is masked; None gives the cells as they are, without `labels`."""
    group: str | None = None
    """Column of obs: `group` of a batch is then each cell's group, (C,) int64, -1 where it is missing."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides split, order and masks."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """Threads of CellLoader that prepare batches ahead; 0 prepares them when they are asked for."""
    ahead: Annotated[int, Field(ge=1, le=1024)] = 4
    """Batches that CellLoader prepares ahead."""

    def cells(self, replica: Replica) -> CellsConfig:
        """The same as a `data` section whose steps are one microbatch a replica."""
        size = self.batch_size * replica.of
        tokenizer = RankTokenizerConfig(kind="rank", vocabulary=self.vocabulary, seq_length=self.seq_length)
        packing: dict[str, Any] = {"packing": False, "micro_batch_size": self.batch_size}
        if self.packed:
            packing = {"packing": True, "microbatch_tokens": size * self.seq_length}
        return CellsConfig(
            kind="cells",
            store=self.store,
            tokenizer=tokenizer,
            split=self.split,
            global_batch_size=size,
            **packing,
        )


def this_replica() -> Replica:
    """This process's place in torch.distributed, or the only one."""
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized():
        return Replica(number=dist.get_rank(), of=dist.get_world_size())
    return Replica()


class Batches:
    """Batches by number. What CellLoader and CellIterableDataset have in common.

    Args:
        config: checked.
        replica: whose share; default: this process's in torch.distributed.

    Raises:
        StoreError: the store is missing or damaged, or obs lacks a column.
        VocabularyError: no such vocabulary, or it knows no gene of the store.
        ConfigError: nothing would be left to train on.
    """

    def __init__(self, config: LoaderConfig, *, replica: Replica | None = None) -> None:
        replica = this_replica() if replica is None else replica
        self.config = config
        self.size = config.batch_size * replica.of
        """Cells a step, over all replicas."""
        self.stream: CellStream = config.cells(replica).open(
            objective=config.corruption or BERT, seed=config.seed, replica=replica, align=1
        )
        self.group_names: tuple[str, ...] = ()
        """Names of the groups by their number in `group`."""
        self._groups: npt.NDArray[np.int32] | None = None
        if config.group is not None:
            self._groups, self.group_names = self.stream.store.obs_groups(config.group)

    @property
    def per_pass(self) -> int:
        """Batches of one pass over the training cells; cells left over begin the next pass."""
        return max(1, self.stream.n_train // self.size)

    @property
    def fingerprint(self) -> dict[str, str]:
        """What has to be the same to go on with the same batches."""
        return self.stream.fingerprint | {"cells a step": str(self.size)}

    def tensors(self, step: StepBatch) -> Batch:
        """This replica's cells of a step. Every batch has at least the cells that have a token."""
        (microbatch,) = step.microbatches
        corrupted, pad = self.config.corruption is not None, self.stream.vocabulary.pad
        if self.config.packed:
            arrays = packed_batch(microbatch, corrupted=corrupted)
        else:
            arrays = padded_batch(microbatch, pad=pad, corrupted=corrupted)
        if self._groups is not None:
            arrays["group"] = self._groups[arrays["cell_ids"]].astype(np.int64)
        return {name: torch.from_numpy(np.ascontiguousarray(a).reshape(a.shape)) for name, a in arrays.items()}

    def validation(self) -> Iterator[Batch]:
        """The held-out cells once, with the same masks every time; the last batch may be smaller."""
        for number in range(-(-self.stream.n_validation // self.size)):
            step = self.stream.validation(number)
            if step is not None:
                yield self.tensors(step)

    def check(self, state: State) -> None:
        """Whether a state is one of these batches.

        Raises:
            ConfigError: it is of other cells, masks or sizes; the first difference is named.
        """
        theirs = state.get("fingerprint", {})
        for name, mine in self.fingerprint.items():
            if theirs.get(name) != mine:
                raise ConfigError(
                    f"the state was saved with {name}: {theirs.get(name)}, and now it is {mine}",
                    where="load_state_dict",
                    fix="use the store and the settings that it was saved with, or begin without a state",
                )


class CellLoader(Batches):
    """An iterable of batches with a position: `for batch in loader` goes over the training cells once.

    The next `for` goes on behind: cells left over by the last whole batch come first in it, so that none is ever
    left out. `state_dict` may be asked for between any two batches; after `load_state_dict` the batch that would have
    come next comes next, in the middle of a pass too, with any number of workers.
    """

    _position = 0

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left of the present pass."""
        left = self.per_pass - self._position // self.size % self.per_pass
        ahead = LookAhead(
            self.stream,
            start=self._position,
            global_batch_size=self.size,
            workers=self.config.workers,
            depth=min(self.config.ahead, left),
        )
        with ahead as steps:
            for _ in range(left):
                batch = self.tensors(next(steps))
                self._position += self.size  # before it is handed out: a state saved with it is behind it
                yield batch

    def state_dict(self) -> State:
        """Where the loader is: plain numbers and text, for torch.save or JSON."""
        return {"cells_seen": self._position, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: State) -> None:
        """Go to where a state was saved.

        Raises:
            ConfigError: it is a state of other batches.
        """
        self.check(state)
        self._position = int(state["cells_seen"])


class CellIterableDataset(IterableDataset[Batch]):
    """The same batches without end, for torch's DataLoader and torchdata's StatefulDataLoader with worker processes.

    Give it with `batch_size=None`: an item is a whole batch. Worker w of W prepares every W-th batch, so the order is
    the same with any number of workers. Every `iter` begins at `start`; stop after as many batches as you want.
    StatefulDataLoader asks each worker for its state, so a state needs the same number of workers again.

    Args:
        config: checked.
        start: batches before the first.
        replica: whose share; default: this process's in torch.distributed.
    """

    def __init__(self, config: LoaderConfig, *, start: int = 0, replica: Replica | None = None) -> None:
        super().__init__()
        self.config = config
        self.start = start
        self.replica = this_replica() if replica is None else replica
        self._opened: Batches | None = None
        self._resumed: int | None = None
        self._next = start

    @property
    def batches(self) -> Batches:
        """What the batches are made of; opened when it is first needed, in each worker."""
        if self._opened is None:
            self._opened = Batches(self.config, replica=self.replica)
        return self._opened

    def __iter__(self) -> Iterator[Batch]:
        """This worker's batches from `start`, or from where a state was saved."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        batches = self.batches
        first = self.start + number if self._resumed is None else self._resumed
        self._resumed = None
        for step in itertools.count(first, workers):
            batch = batches.tensors(batches.stream.step(step * batches.size))
            self._next = step + workers
            yield batch

    def state_dict(self) -> State:
        """Where this worker's copy is."""
        return {"batches": self._next, "workers": _workers(), "fingerprint": self.batches.fingerprint}

    def load_state_dict(self, state: State) -> None:
        """Go to where this worker's copy was.

        Raises:
            ConfigError: it is a state of other batches, or of another number of workers.
        """
        self.batches.check(state)
        if state["workers"] != _workers():
            raise ConfigError(
                f"the state is of {state['workers']} workers, and now there are {_workers()}",
                where="load_state_dict",
                fix=f"use num_workers={state['workers']}, or CellLoader, which may change its workers",
            )
        self._resumed = self._next = int(state["batches"])

    def __getstate__(self) -> State:
        return self.__dict__ | {"_opened": None}


def _workers() -> int:
    """Worker processes of the DataLoader that runs this; 0 in the main process."""
    worker = get_worker_info()
    return worker.num_workers if worker else 0
