"""Batches for any PyTorch trainer. In: a store and a few settings. Out: dictionaries of tensors, resumable anywhere.

Needs torch (`pip install 'scmf-data[torch]'`), and neither scmf-model nor scmf-train. The cells of a batch and what is
masked in them are those of scmf's own trainer at the same position: a function of the seed and of how many cells have
been seen, whatever the number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from scmf.core.errors import ConfigError, MachineError
from scmf.data.loader_config import BERT, BatchesConfig, CountsConfig, LoaderConfig
from scmf.data.loader_obs import read_column
from scmf.data.lookahead import LookAhead
from scmf.data.step_stream import Draw, Replica, SplitName

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise MachineError(
        f"the loader hands out torch tensors, and torch cannot be imported: {error}",
        where="scmf.data.loader",
        fix="pip install 'scmf-data[torch]'",
    ) from error

__all__ = [
    "BERT",
    "CellIterableDataset",
    "CellLoader",
    "CountsConfig",
    "HeldOutDataset",
    "LoaderConfig",
    "Replica",
    "this_replica",
]

Batch = dict[str, torch.Tensor]
State = dict[str, Any]


def this_replica() -> Replica:
    """This process's place in torch.distributed, or the only one.

    Raises:
        ConfigError: a launcher has started several processes, and torch.distributed does not know of them yet.
    """
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized():
        return Replica(number=dist.get_rank(), of=dist.get_world_size())
    if _launched() > 1:
        raise ConfigError(
            f"this is one of {_launched()} processes, and torch.distributed does not know which: all would have the "
            "same batches",
            where="the environment, WORLD_SIZE",
            fix="torch.distributed.init_process_group() before it, or replica=Replica(number=RANK, of=RANKS)",
        )
    return Replica()


class Batches:
    """Batches by position, as tensors. What the loader and the datasets have in common.

    Args:
        config: LoaderConfig for tokens, CountsConfig for counts.
        replica: whose share; default: this process's in torch.distributed.

    Raises:
        StoreError: the store is missing or damaged, or it lacks a column or a gene.
        VocabularyError: no such vocabulary, or it knows no gene of the store.
        ConfigError: a batch would have more cells than train, or settings do not go together.
    """

    noun = "cell"
    """What one unit of a position is called in sentences."""

    def __init__(self, config: BatchesConfig, *, replica: Replica | None = None) -> None:
        self.config = config
        self.replica = _checked(this_replica() if replica is None else replica)
        self.size = config.batch_size * self.replica.of
        """Cells a step, over all replicas."""
        self.stream = config.open(self.replica)
        """The cells by position: their `vocabulary` (of LoaderConfig) or `gene_ids` (of CountsConfig), `n_train`."""
        self.obs = {name: read_column(self.stream.store, column) for name, column in config.obs.items()}
        if self.size > self.stream.n_train:
            raise ConfigError(
                f"a step of batch_size={config.batch_size:,} on {self.replica.of} replica(s) has {self.size:,} cells, "
                f"and {self.stream.n_train:,} cells train: it would have cells twice",
                where=type(config).__name__,
                fix=f"use a batch_size of at most {max(1, self.stream.n_train // self.replica.of):,}",
            )

    def __len__(self) -> int:
        """Batches of one pass over the training cells; cells left over begin the next pass."""
        return self.stream.n_train // self.size

    @property
    def obs_names(self) -> dict[str, tuple[str, ...]]:
        """Names by their numbers, of columns of text; () for columns of numbers."""
        return {name: column.names for name, column in self.obs.items()}

    @property
    def fingerprint(self) -> dict[str, str]:
        """What has to be the same to go on with the same batches."""
        return self.stream.fingerprint | {"cells a step": str(self.size)}

    def draw(self, cells_seen: int) -> Draw:
        """Cells of the step that begins after so many cells."""
        return self.stream.draw(cells_seen)

    def step(self, cells_seen: int) -> Batch:
        """This replica's batch of the step that begins after so many cells."""
        return self._named(self.stream.step(cells_seen))

    def whole(self, split: SplitName, number: int) -> Batch | None:
        """This replica's batch of one pass over a split, the same every time; None behind the last."""
        step = self.stream.whole(split, number)
        return None if step is None else self._named(step)

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

    def _named(self, step: Any) -> Batch:
        arrays = self.config.arrays(self.stream, step)
        arrays |= {name: column.of(arrays["cell_ids"]) for name, column in self.obs.items()}
        return {name: torch.from_numpy(np.ascontiguousarray(a).reshape(a.shape)) for name, a in arrays.items()}


class CellLoader(Batches):
    """An iterable of batches with a position: `for batch in loader` goes over the training cells once.

    The next `for` goes on behind: cells left over by the last whole batch come first in it, so that none is ever
    left out. `state_dict` may be asked for between any two batches; after `load_state_dict` the batch that would have
    come next comes next, in the middle of a pass too, with any number of workers.
    """

    _position = 0

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left of the present pass."""
        left = len(self) - self._position // self.size % len(self)
        ahead = LookAhead(
            self,
            start=self._position,
            global_batch_size=self.size,
            workers=self.config.workers,
            depth=min(self.config.ahead, left),
        )
        with ahead as steps:
            for _ in range(left):
                batch = next(steps)
                self._position += self.size  # before it is handed out: a state saved with it is behind it
                yield batch

    def held_out(self, split: SplitName = "validation") -> HeldOutDataset:
        """The batches of a pass over the cells that `split` holds out."""
        return HeldOutDataset(self.config, split, replica=self.replica)

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


class _BatchDataset(IterableDataset[Batch]):
    """Whole batches as items, for loaders with worker processes: give it with `batch_size=None`.

    Worker w of W prepares every W-th batch, so the order is the same with any number of workers.
    """

    def __init__(self, config: BatchesConfig, *, replica: Replica | None = None) -> None:
        super().__init__()
        self.config = config
        self.replica = _only_replica() if replica is None else _checked(replica)
        self._opened: Batches | None = Batches(config, replica=self.replica)

    @property
    def batches(self) -> Batches:
        """What the batches are made of; opened anew in each worker."""
        if self._opened is None:
            self._opened = Batches(self.config, replica=self.replica)
        return self._opened

    def __getstate__(self) -> State:
        return self.__dict__ | {"_opened": None}


class CellIterableDataset(_BatchDataset):
    """The batches of CellLoader, a pass at a time, for torch's DataLoader and torchdata's StatefulDataLoader.

    `set_epoch` says which pass, before each `for`, as with torch's DistributedSampler; a second `for` over the same
    pass is an error. StatefulDataLoader asks each worker for its state, so a state needs as many workers again.

    Args:
        config: LoaderConfig for tokens, CountsConfig for counts.
        start: batches before the first one, over all passes.
        replica: whose share; needed where there are several ranks.

    Raises:
        ScmfError: as Batches does.
    """

    def __init__(self, config: BatchesConfig, *, start: int = 0, replica: Replica | None = None) -> None:
        super().__init__(config, replica=replica)
        # In memory that workers share, for those that outlive a pass: see _START, _BEGUN, _CHOSEN.
        self._place = torch.tensor([start, _NONE, 0]).share_memory_()  # type: ignore[no-untyped-call]
        self._resumed: range | None = None
        self._next: int | None = None

    def __len__(self) -> int:
        """Batches of a pass."""
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Which pass the next `for` goes over; workers that live on follow."""
        if epoch != int(self._place[_START]) // len(self):
            self._place[_START] = epoch * len(self)
        self._place[_BEGUN], self._place[_CHOSEN] = _NONE, 1
        self._next = None

    def __iter__(self) -> Iterator[Batch]:
        """This worker's batches of the pass, or what is left of them where a state was loaded.

        Raises:
            ConfigError: the pass was begun before.
        """
        steps, self._resumed = self._resumed, None
        for step in self._begin() if steps is None else steps:
            batch = self.batches.step(step * self.batches.size)
            self._next = step + max(1, _worker()[1])
            yield batch
        self._next = None  # between two passes

    def state_dict(self) -> State:
        """Where this worker's copy is."""
        start, begun, _ = self._place.tolist()
        place = {"start": start, "begun": begun, "batches": self._next, "workers": _worker()[1]}
        return place | {"fingerprint": self.batches.fingerprint}

    def load_state_dict(self, state: State) -> None:
        """Go to where this worker's copy was.

        Raises:
            ConfigError: it is a state of other batches, or of another number of workers.
        """
        self.batches.check(state)
        number, workers = _worker()
        if state["workers"] != workers:
            raise ConfigError(
                f"the state is of {state['workers']} workers, and now there are {workers}",
                where="load_state_dict",
                fix=f"use num_workers={state['workers']}, or CellLoader, which may change its workers",
            )
        self._next, self._resumed = state["batches"], None
        if self._next is not None:
            self._resumed = range(self._next, self._end_of_pass(state["start"]), max(1, workers))
        # A state between two passes says which was the last; what set_epoch has chosen since then holds.
        if self._resumed or not int(self._place[_CHOSEN]):
            self._place[_START] = state["start"]
        if number == 0:  # the one that begins passes: the others' states may have been taken before or after it did
            self._place[_BEGUN] = state["begun"]

    def _begin(self) -> range:
        """This worker's steps of the next pass. Worker 0 sees to it that none is begun twice."""
        (number, workers), start = _worker(), int(self._place[_START])
        epoch = start // len(self)
        if number == 0:
            if int(self._place[_BEGUN]) == epoch:
                raise ConfigError(
                    f"pass {epoch} has been begun already: a second `for` would give the same batches again",
                    where="CellIterableDataset",
                    fix=f"before it: dataset.set_epoch({epoch + 1}) for the next pass, set_epoch({epoch}) for the same",
                )
            self._place[_BEGUN] = epoch
        return range(start + number, self._end_of_pass(start), max(1, workers))

    def _end_of_pass(self, start: int) -> int:
        return (start // len(self) + 1) * len(self)


class HeldOutDataset(_BatchDataset):
    """The batches of one pass over cells that `split` holds out: the same cells and masks in every `for`.

    The last batch may have fewer cells than the others, and on several replicas none.

    Args:
        config: LoaderConfig for tokens, CountsConfig for counts.
        split: validation, test or train.
        replica: whose share; needed where there are several ranks.

    Raises:
        ScmfError: as Batches does.
    """

    def __init__(
        self, config: BatchesConfig, split: SplitName = "validation", *, replica: Replica | None = None
    ) -> None:
        super().__init__(config, replica=replica)
        self.split: SplitName = split

    def __len__(self) -> int:
        """Batches, the last one included."""
        n, size = self.batches.stream.n_of(self.split), self.batches.size
        return (n + size - 1) // size

    def __iter__(self) -> Iterator[Batch]:
        """This worker's batches."""
        number, workers = _worker()
        for place in range(number, len(self), max(1, workers)):
            batch = self.batches.whole(self.split, place)
            if batch is not None:
                yield batch


_START, _BEGUN, _CHOSEN = range(3)
"""Places of CellIterableDataset: first batch of the next pass; last pass begun; whether set_epoch chose the first."""
_NONE = -1


def _worker() -> tuple[int, int]:
    """Number of this worker process of a DataLoader and how many there are; 0 of 0 in the main process."""
    worker = get_worker_info()
    return (worker.id, worker.num_workers) if worker else (0, 0)


def _launched() -> int:
    """Processes that torchrun, or what speaks like it, has started."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    return int(ranks) if ranks.isdecimal() else 1


def _only_replica() -> Replica:
    """The only one; where there are several ranks, somebody has to say who shares out the batches."""
    dist = torch.distributed
    known = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if max(known, _launched()) > 1:
        raise ConfigError(
            f"this is one of {max(known, _launched())} processes, and a dataset cannot see who shares out its batches",
            where="replica",
            fix="replica=this_replica() for the batches of this rank; replica=Replica() where the trainer divides each "
            "batch among its ranks, as Hugging Face's does",
        )
    return Replica()


def _checked(replica: Replica) -> Replica:
    if not 0 <= replica.number < replica.of:
        raise ConfigError(
            f"there is no replica {replica.number} of {replica.of}",
            where="replica",
            fix=f"number them from 0 to {max(0, replica.of - 1)}",
        )
    return replica
