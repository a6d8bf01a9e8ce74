"""Model and optimizer state to and from a folder of shards, in any layout. The format is torch's distributed
checkpoint, written and read through Megatron's mapping from each rank's part to the whole tensor.

Nothing in a folder is executed: the tensors and the common part are read by torch's weights-only loader, and the
pickled index is refused unless it is made of the plain types of an index.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from scmf.core.errors import CheckpointError
from scmf.model.megatron import MegatronOptimizer, dist_checkpointing
from scmf.train.layout import Layout
from scmf.train.optimizer_state import AVERAGE, optimizer_entries, state_key, take_optimizer
from scmf.train.staging import Staging, WriteShards
from scmf.train.tensors import local
from scmf.train.world import lost_contact

Stages = Sequence[Any]
"""This rank's part of the model: one stage, or the interleaved ones in the order of the layers."""
INDEX = ".metadata"
CELL_HEADS = "cell_heads."
"""Begins the keys of heads about whole cells."""
_INDEX_TYPES = frozenset(
    {
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),
        ("torch", "Size"),
        ("torch", "device"),
        ("torch", "float32"),
        ("torch", "bfloat16"),
        ("torch", "float16"),
        ("torch.serialization", "_get_layout"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        *(
            ("torch.distributed.checkpoint.metadata", name)
            for name in (
                "_MEM_FORMAT_ENCODING",
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorProperties",
                "TensorStorageMetadata",
            )
        ),
    }
)


def stage_shards(staging: Staging, *, stages: Stages, optimizer: MegatronOptimizer, layout: Layout) -> WriteShards:
    """Copy this rank's state to the host; collective over all ranks.

    Args:
        staging: holds the copies until the next call.
        stages: of this rank.
        optimizer: over their parameters.
        layout: of this run.

    Returns:
        What writes the copies into a folder; collective, from any thread.
    """
    return staging.take(_sharded_state(stages, optimizer, layout))


def load_shards(folder: Path, *, stages: Stages, optimizer: MegatronOptimizer, layout: Layout) -> None:
    """Read model and optimizer state saved in any layout; collective over all ranks.

    Raises:
        CheckpointError: unreadable, or of another model.
    """
    check_index(folder)
    wanted = _sharded_state(stages, optimizer, layout)
    if _is_rounded(optimizer):
        # The originals, which the optimizer has, are the weights; read in place, they would be overwritten.
        del wanted["model"]
    # The state read comes in other tensors or in these: Megatron decides.
    places = {key: entry.data for key, entry in wanted["optimizer"]["tensors"].items()}
    state = _load(folder, wanted)
    if "model" in wanted:
        _take_weights(stages, state["model"])
    with torch.no_grad():
        take_optimizer(optimizer, state["optimizer"], places)


def load_weights(
    folder: Path, *, stages: Stages, layout: Layout, average: bool = False, new_heads: bool = False
) -> None:
    """Read the model's weights alone, into a model of the same sizes.

    Args:
        folder: of the shards.
        stages: of this rank.
        layout: of this run.
        average: read the running average that the optimizer has kept, which is fp32, in their place.
        new_heads: a head about whole cells that the checkpoint does not have keeps the weights that it has.

    Raises:
        CheckpointError: unreadable, of another model, or without an average.
    """
    known = check_index(folder)
    wanted = _sharded_weights(stages, layout)
    anew = [key for key, weight in wanted.items() if weight.key.startswith(CELL_HEADS) and weight.key not in known]
    kept = {key: wanted.pop(key).data for key in anew} if new_heads else {}
    if average:
        wanted = {key: _average_entry(weight) for key, weight in wanted.items()}
    _take_weights(stages, _load(folder, {"model": wanted})["model"] | kept)


def _average_entry(weight: Any) -> Any:
    """Where the average of a weight is in a checkpoint."""
    return replace(weight, key=state_key(AVERAGE, weight.key), data=weight.data.float(), dtype=torch.float32)


def check_index(folder: Path) -> frozenset[str]:
    """Refuse an index that names anything but the plain types of an index.

    Returns:
        Keys of everything in the checkpoint.

    Raises:
        CheckpointError: it does, or cannot be read.
    """
    path = folder / INDEX
    try:
        with path.open("rb") as file:
            return frozenset(_IndexUnpickler(file).load().state_dict_metadata)
    except FileNotFoundError as error:
        raise _damaged(folder, "its index is missing") from error
    except CheckpointError:
        raise
    except Exception as error:
        # A damaged pickle raises anything from EOFError to UnicodeDecodeError.
        raise _damaged(folder, f"its index cannot be read: {error}") from error


class _IndexUnpickler(pickle.Unpickler):
    """Reads an index and refuses every type that is not in the list, before anything of it is called."""

    def find_class(self, module: str, name: str) -> Any:
        """The type of that name, if an index may hold it.

        Raises:
            CheckpointError: it may not.
        """
        if (module, name) not in _INDEX_TYPES:
            raise CheckpointError(
                f"the checkpoint's index names {module}.{name}, which no index of scmf does; it is not read",
                where=INDEX,
                fix="use a checkpoint that scmf-train has written, from a place that you trust",
            )
        return super().find_class(module, name)


def _damaged(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is damaged: {what}",
        where=str(folder),
        fix="name an older one with --resume PATH; they are beside it",
    )


def _metadata(layout: Layout) -> dict[str, Any]:
    # singleton_local_shards is Megatron's present default; named because it decides the keys.
    return {"dp_cp_group": layout.groups.dp_cp, "singleton_local_shards": False}


def _sharded_weights(stages: Stages, layout: Layout) -> dict[str, Any]:
    """Checkpoint entries of the weights, without Transformer Engine's extra state (fp8 scales), which CPUs lack.

    The keys here number the rank's stages; those in the files are the same in every layout.
    """
    return {
        f"{turn}/{key}": entry
        for turn, stage in enumerate(stages)
        for key, entry in stage.sharded_state_dict(metadata=_metadata(layout)).items()
        if not key.endswith("_extra_state")
    }


def _sharded_state(stages: Stages, optimizer: Any, layout: Layout) -> dict[str, Any]:
    weights = _sharded_weights(stages, layout)
    entries = optimizer_entries(optimizer, weights)
    if _is_rounded(optimizer):
        dtype = optimizer.weight_dtype
        weights = {key: replace(w, data=w.data.to(dtype), dtype=dtype) for key, w in weights.items()}
    return {"model": weights, "optimizer": entries}


def _is_rounded(optimizer: Any) -> bool:
    """Whether weights are rounded for a checkpoint: FSDP has originals only, and other layouts look for both."""
    return bool(getattr(optimizer, "weight_dtype", torch.float32) != torch.float32)


def _load(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        state: dict[str, Any] = dist_checkpointing.load(wanted, str(folder))
    except (Exception, CheckpointException) as error:  # torch's is no Exception but a BaseException
        # Damage raises anything from KeyError to UnpicklingError; the true cause may be one of several ranks'.
        if isinstance(error, RuntimeError) and lost_contact(error):
            raise
        raise CheckpointError(
            f"the checkpoint cannot be read into this model: {_cause(error)}",
            where=str(folder),
            fix="use the config.yaml beside it; if that is the one in use, name an older checkpoint",
        ) from error
    return state


def _cause(error: BaseException) -> str:
    """The last line of what went wrong on the first rank that failed."""
    if isinstance(error, CheckpointException) and error.failures:
        failure = next(iter(error.failures.values()))[0]
        return f"{type(failure).__name__}: {failure}".strip().splitlines()[-1]
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _take_weights(stages: Stages, weights: dict[str, Any]) -> None:
    for turn, stage in enumerate(stages):
        prefix = f"{turn}/"
        _take_stage(stage, {key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)})


@torch.no_grad()
def _take_stage(stage: Any, weights: dict[str, Any]) -> None:
    own = dict(stage.named_parameters())
    # Shards take what was read for them; what is left is for torch, which looks at every name.
    for key in [key for key in weights if key in own and local(own[key]) is not own[key]]:
        local(own[key]).copy_(weights[key])
        weights[key] = own[key]
    missing, unexpected = stage.load_state_dict(weights, strict=False)
    wrong = [key for key in (*missing, *unexpected) if not key.endswith("_extra_state")]
    # The copy of a tied matrix is filled through the tie and listed under its own key only where it is kept.
    wrong = [key for key in wrong if key != "output_layer.weight" or stage.output_layer.weight is not None]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} weights do not fit the model, among them {wrong[0]}",
            where="the checkpoint's model part",
            fix="resume with the configuration that is saved beside the checkpoint",
        )
