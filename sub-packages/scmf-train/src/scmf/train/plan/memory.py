"""Memory of one device, part by part, by formula. In: sizes, layout, the largest microbatch. Out: bytes.

Shapes: T positions of a microbatch, M targets, D width, F feed-forward width, V padded vocabulary, L layers,
A heads, t tensor ranks, p pipeline ranks, d data-parallel replicas.
Source of the activations: Korthikanti et al., 2022 (arXiv:2205.05198), with attention that keeps no L x L matrix;
the parts of the CPU's kernels are what autograd keeps of them, counted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from scmf.model.config import ModelConfig
from scmf.train.config import ParallelConfig
from scmf.train.optimizer_config import OptimizerConfig
from scmf.train.plan.workload import Shape

FP32 = 4
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 2}
"""Of a weight and of an activation between products; fp8 is the precision of the products alone."""

CPU_LIBRARIES = 690_000_000
"""Resident before the first step on a CPU without model and store: Python, torch, Megatron-Core, numba, pandas.
Measured: torch 2.13.0, megatron-core 0.16.1, Linux x86-64; 0.56 GB after the imports, 0.69 with a store opened."""
GPU_LIBRARIES = 3_000_000_000
"""Assumed, not measured: CUDA context and kernels, cuBLAS and Transformer Engine workspaces, NCCL's buffers, and what
torch's allocator cannot hand out again."""


@dataclass(frozen=True, slots=True)
class Place:
    """How a model is laid over devices, and how it computes."""

    model: ModelConfig
    seq_length: int
    vocabulary_size: int
    parallel: ParallelConfig
    replicas: int
    precision: Literal["fp32", "bf16", "fp16", "fp8"]
    optimizer: OptimizerConfig
    ema: bool
    gpu: bool

    @property
    def rows(self) -> int:
        """V: rows of the embedding."""
        return self.model.padded_vocabulary_size(self.vocabulary_size)

    @property
    def number(self) -> int:
        """Bytes of an activation."""
        return BYTES[self.precision]

    @property
    def shard(self) -> int:
        """Ranks that share out the optimizer's state."""
        return self.replicas if self.parallel.fsdp or self.parallel.shard_optimizer else 1


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one device at its peak, by what holds them."""

    weights: int
    gradients: int
    optimizer: int
    """State, fp32 originals of weights in half precision, and the average of the weights."""
    activations: int
    """What the backward pass needs of the forward pass, in all layers, and the working space of one."""
    logits: int
    """Scores of the targets over the vocabulary, and their gradient."""
    buffers: int
    """On a GPU: weights gathered by FSDP, and what pipeline ranks exchange. On a CPU: the copy that a save writes."""
    libraries: int
    """What the process takes before it has a model."""
    allocator: int = 0
    """What the host's allocator holds without use; only a probe can tell."""

    @property
    def total(self) -> int:
        """All parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Every part by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Stage:
    """Numbers that are trained on one device, gradients and states of which it holds."""

    hidden_matrices: int
    """In the matrices inside the layers."""
    rest: int
    """Embeddings, head, biases, norms."""

    @property
    def all(self) -> int:
        """Both."""
        return self.hidden_matrices + self.rest


def stage_parameters(place: Place, rank: int) -> Stage:
    """Trained numbers on a device of one pipeline rank, by formula.

    Args:
        place: sizes and layout.
        rank: from 0, the first stage.
    """
    model, tensor, pipeline = place.model, place.parallel.tensor, place.parallel.pipeline
    width, ffn = model.hidden, model.ffn
    matrices = (4 * width**2 + 2 * width * ffn) // tensor
    # Biases of column-parallel linears are split; those of row-parallel ones, and norms, are not.
    others = (3 * width + ffn) // tensor + 2 * width + 4 * width
    layers = model.layers // pipeline
    first, last = rank == 0, rank == pipeline - 1
    rest = layers * others + (2 * width if _norm_is_here(model, first=first, last=last) else 0)
    if first:
        rest += place.rows // tensor * width + (place.seq_length * width if learned_positions(model) else 0)
    if last:
        rest += head_parameters(place) + (place.rows // tensor * width if pipeline > 1 else 0)
    return Stage(layers * matrices, rest)


def _norm_is_here(model: ModelConfig, *, first: bool, last: bool) -> bool:
    """Post-LN models begin with a norm, others end with one."""
    return first if getattr(model, "norm", "pre") == "post" else last


def learned_positions(model: ModelConfig) -> bool:
    """Whether every position has an embedding."""
    return getattr(model, "positions", "learned") == "learned"


def head_parameters(place: Place) -> int:
    """Of the head on one tensor rank, the tied matrix not counted: only its bias is split."""
    rows = place.rows if place.model.task.mlm_head else 0
    return place.model.task.head_parameters(place.model.hidden, place.rows) - rows + rows // place.parallel.tensor


def state_bytes(place: Place, rank: int) -> tuple[int, int, int]:
    """Bytes of weights, gradients and optimizer on a device of one pipeline rank.

    Gradients are fp32 in every precision. Under FSDP all three are fp32 and shared out; weights in the precision of
    the products are gathered when a layer runs, see `buffer_bytes`.
    """
    stage = stage_parameters(place, rank)
    whole = place.replicas if place.parallel.fsdp else 1
    weight = FP32 if place.parallel.fsdp else place.number
    states = place.optimizer.states(hidden_matrix=True) * stage.hidden_matrices
    states += place.optimizer.states(hidden_matrix=False) * stage.rest
    originals = stage.all if weight < FP32 else 0
    average = stage.all if place.ema else 0
    optimizer = FP32 * (states + originals + average)
    return weight * stage.all // whole, FP32 * stage.all // whole, optimizer // place.shard


def layer_bytes(place: Place) -> int:
    """Bytes that one layer keeps of one position for the backward pass, nothing recomputed.

    Inputs of two norms and of the two linears after them: 4 D; queries, keys and values: 3 D; context: D; before and
    after the GELU: 2 F; two dropout masks; two statistics of each norm, and one of each head's softmax.
    """
    model, number = place.model, place.number
    width, ffn = model.hidden, model.ffn
    tensor = place.parallel.tensor
    alike = tensor if place.parallel.sequence else 1
    dropped = getattr(model, "hidden_dropout", 0.0) > 0.0
    # The CPU keeps a mask scaled, in the precision of the activations; fused kernels keep a byte.
    mask = (1 if place.gpu else number) if dropped else 0
    # torch's fused attention on CPUs keeps each segment's context beside the pack's.
    contexts = 1 if place.gpu or getattr(model, "attention_dropout", 0.0) > 0.0 else 2
    replicated = 4 * width * number + 2 * width * mask + 4 * FP32
    return replicated // alike + ((3 + contexts) * width * number + 2 * ffn * number + model.heads * FP32) // tensor


def kept_bytes(place: Place) -> int:
    """Bytes that one layer keeps of one position, with what is recomputed left out."""
    model, number, parallel = place.model, place.number, place.parallel
    if parallel.recompute == "full":
        return model.hidden * number // (parallel.tensor if parallel.sequence else 1)
    saved = 2 * model.ffn * number // parallel.tensor if parallel.recompute == "selective" else 0
    return layer_bytes(place) - saved


def saved_bytes(place: Place, shape: Shape, *, rank: int, microbatches: float) -> int:
    """Bytes of what forward passes have kept for backward passes that are still to come, logits not counted.

    Args:
        place: sizes and layout.
        shape: of the largest microbatch.
        rank: pipeline rank; earlier ones hold more microbatches at a time.
        microbatches: of a step on one replica.
    """
    pipeline, turns = place.parallel.pipeline, place.parallel.interleave
    passes = pipeline - rank if turns == 1 else 2 * (pipeline - rank - 1) + (turns - 1) * pipeline + 1
    in_flight = min(passes, max(1.0, microbatches) * turns) / turns
    kept = int(in_flight * (place.model.layers // pipeline) * kept_bytes(place))
    return (kept + _end_bytes(place, rank=rank)) * shape.positions


def activation_bytes(place: Place, shape: Shape, *, rank: int, microbatches: float) -> int:
    """Bytes of activations at the peak; arguments as `saved_bytes`."""
    # One layer is computed again, or has its gradients beside its activations.
    again = layer_bytes(place) * shape.positions if place.parallel.recompute != "none" else 0
    return saved_bytes(place, shape, rank=rank, microbatches=microbatches) + again + working_bytes(place, shape)


def _end_bytes(place: Place, *, rank: int) -> int:
    """Bytes a position outside of the layers: dropout of the embedding; the last norm's input."""
    model, number = place.model, place.number
    width = model.hidden // (place.parallel.tensor if place.parallel.sequence else 1)
    first = width * (1 if place.gpu else number) if getattr(model, "hidden_dropout", 0.0) > 0.0 else 0
    return (first if rank == 0 else 0) + (width * number if rank == place.parallel.pipeline - 1 else 0)


def working_bytes(place: Place, shape: Shape) -> int:
    """Bytes that one layer takes while it is computed: gradients of its parts; on CPUs attention with dropout.

    That makes whole matrices of a segment, of every head: weights and scores, or weights and their gradients, in
    fp32, and what is dropped with the numbers that decide it: 11 bytes a pair.
    """
    model = place.model
    parts = (2 * model.ffn + 4 * model.hidden) // place.parallel.tensor * place.number * shape.positions
    if place.gpu or not getattr(model, "attention_dropout", 0.0) > 0.0:
        return parts
    longest = int(shape.segments.max(initial=0))
    return parts + 11 * model.heads // place.parallel.tensor * longest**2


def logit_bytes(place: Place, shape: Shape) -> int:
    """Bytes of the head on the last stage: fp32 scores that become their gradient, in half precision also that."""
    columns = place.rows // place.parallel.tensor
    also = 0 if place.number == FP32 else place.number
    dense = 4 * place.model.hidden * place.number if place.model.task.mlm_head else 0
    return shape.targets * (columns * (FP32 + also) + dense)


def buffer_bytes(place: Place, shape: Shape, *, rank: int) -> int:
    """Bytes of what is neither trained nor kept for the backward pass."""
    parallel = place.parallel
    if parallel.fsdp:
        # Two layers are gathered at a time, in the precision of the products, with one layer's whole gradient; the
        # embedding and the head stay gathered from the forward to the backward pass.
        stage = stage_parameters(place, rank)
        layer = (stage.hidden_matrices + 13 * place.model.hidden) // place.model.layers
        ends = stage.rest
        return 2 * layer * place.number + layer * FP32 + ends * (place.number + FP32)
    if not place.gpu:
        return save_bytes(place, rank=rank)
    sent = place.model.hidden * place.number * shape.positions // (parallel.tensor if parallel.sequence else 1)
    return 4 * sent if parallel.pipeline > 1 else 0


def save_bytes(place: Place, *, rank: int) -> int:
    """Bytes of the copy in host memory that a save writes: weights and optimizer, kept from save to save."""
    weights, _, optimizer = state_bytes(place, rank)
    return weights + optimizer


def memory_of(place: Place, shape: Shape, *, microbatches: float, saving: bool = True) -> Memory:
    """Memory of the device that needs most, over the pipeline ranks.

    Args:
        place: sizes and layout.
        shape: of the largest microbatch.
        microbatches: of a step on one replica.
        saving: count the copy that a save writes, where it is in the same memory (a CPU's).
    """
    ranks = (_memory(place, shape, rank=rank, microbatches=microbatches) for rank in range(place.parallel.pipeline))
    most = max(ranks, key=lambda memory: memory.total)
    return most if saving or place.gpu or place.parallel.fsdp else replace(most, buffers=0)


def _memory(place: Place, shape: Shape, *, rank: int, microbatches: float) -> Memory:
    weights, gradients, optimizer = state_bytes(place, rank)
    last = rank == place.parallel.pipeline - 1
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activation_bytes(place, shape, rank=rank, microbatches=microbatches),
        logits=logit_bytes(place, shape) if last else 0,
        buffers=buffer_bytes(place, shape, rank=rank),
        libraries=GPU_LIBRARIES if place.gpu else CPU_LIBRARIES,
    )
