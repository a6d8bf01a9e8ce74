"""Megatron's TransformerConfig from ours: every flag that is not a default, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from scmf.model.config import EncoderConfig
from scmf.model.megatron import TransformerConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ModelLayout:
    """How a model is laid over ranks."""

    tensor: int = 1
    pipeline: int = 1
    sequence: bool = False


def transformer_config(
    config: EncoderConfig, *, layout: ModelLayout, precision: Literal["fp32", "bf16"], on_gpu: bool
) -> Any:
    """Megatron's configuration of an encoder.

    Args:
        config: sizes, dropout, norms.
        layout: tensor and pipeline sizes.
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
    )


def _leave(tensor: torch.Tensor) -> None:
    """Initialise nothing."""
