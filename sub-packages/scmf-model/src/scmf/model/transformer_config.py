"""Megatron's TransformerConfig from ours: every flag that is not a default, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from scmf.model.config import EncoderConfig
from scmf.model.megatron import TransformerConfig

Precision = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class ModelLayout:
    """How a model is laid over ranks and over their memory."""

    tensor: int = 1
    pipeline: int = 1
    interleave: int = 1
    """Stages of each pipeline rank."""
    turn: int = 0
    """Which of a rank's interleaved stages this is, from 0."""
    sequence: bool = False
    recompute: Recompute = "none"
    """Activations that are computed again in the backward pass instead of being kept."""


RECOMPUTE: dict[Recompute, dict[str, Any]] = {
    "none": {},
    "selective": {},  # scmf.model.recompute
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}
"""Megatron's settings for each."""


def transformer_config(config: EncoderConfig, *, layout: ModelLayout, precision: Precision, on_gpu: bool) -> Any:
    """Megatron's configuration of an encoder.

    Args:
        config: sizes, dropout, norms.
        layout: sizes along every axis, and recomputation.
        precision: of parameters and activations; optimizer state and reductions are fp32 in either.
        on_gpu: use the fused kernels that exist on GPUs only.
    """
    return TransformerConfig(
        num_layers=config.layers,
        hidden_size=config.hidden,
        ffn_hidden_size=config.ffn,
        num_attention_heads=config.heads,
        hidden_dropout=config.hidden_dropout,
        attention_dropout=config.attention_dropout,
        layernorm_epsilon=config.layernorm_epsilon,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.interleave if layout.interleave > 1 else None,
        # With the other setting the interleaved schedule of 0.16.1 mixes up tensors, in silence, on gloo.
        overlap_p2p_comm=layout.interleave > 1,
        batch_p2p_comm=layout.interleave == 1,
        sequence_parallel=layout.sequence,
        params_dtype=DTYPES[precision],
        pipeline_dtype=DTYPES[precision],
        bf16=precision == "bf16",
        # The loss is a sum over targets; Megatron divides the gradient by the targets of all ranks and microbatches.
        calculate_per_token_loss=True,
        # Weights are drawn by scmf.model.initial, alike in every layout; Megatron's own draw would be lost time.
        # (perform_initialization=False is not the way: it leaves out the attributes of split tensors as well.)
        init_method=_leave,
        output_layer_init_method=_leave,
        use_cpu_initialization=not on_gpu,
        batch_p2p_sync=on_gpu,
        bias_dropout_fusion=on_gpu,
        # Megatron's fused bias and GELU is the tanh approximation: the model would not be the same on a CPU.
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        cuda_graph_scope=[],  # the default warns that it is deprecated
        **RECOMPUTE[layout.recompute],
    )


def _leave(tensor: torch.Tensor) -> None:
    """Initialise nothing."""
