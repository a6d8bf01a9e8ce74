"""Megatron's TransformerConfig from ours: every flag that is not a default, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from scmf.model.config import BackboneConfig
from scmf.model.device import can_compile
from scmf.model.megatron import TransformerConfig

Precision = Literal["fp32", "bf16", "fp16", "fp8"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,
}
"""Of parameters and of activations between matrix products; fp8 is the precision of the products alone."""
Fp8Recipe = Literal["current", "delayed", "block", "mxfp8"]


@dataclass(frozen=True)
class Fp8:
    """How matrix products are computed in eight bits, by Transformer Engine."""

    recipe: Fp8Recipe = "current"
    first_bf16: int = 0
    """Layers at the beginning whose products stay in bf16."""
    last_bf16: int = 0
    """Layers at the end whose products stay in bf16."""

    @property
    def settings(self) -> dict[str, Any]:
        """Megatron's."""
        names = {"current": "tensorwise", "delayed": "delayed", "block": "blockwise", "mxfp8": "mxfp8"}
        # Gradients need e5m2's range where one scale serves a whole tensor; small blocks have scales of their own.
        whole_tensor = self.recipe in ("current", "delayed")
        return {
            "fp8": "hybrid" if whole_tensor else "e4m3",
            "fp8_recipe": names[self.recipe],
            "fp8_amax_history_len": 1024,
            "fp8_amax_compute_algo": "max",
            "first_last_layers_bf16": bool(self.first_bf16 or self.last_bf16),
            "num_layers_at_start_in_bf16": self.first_bf16,
            "num_layers_at_end_in_bf16": self.last_bf16,
        }


Arithmetic = Literal["fp32", "bf16", "fp16"] | Fp8
"""How a model computes: in one precision, or in bf16 with matrix products in fp8."""


def dtype_of(arithmetic: Arithmetic) -> torch.dtype:
    """Dtype of parameters and activations."""
    return DTYPES["fp8" if isinstance(arithmetic, Fp8) else arithmetic]


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
    fsdp: bool = False
    """Weights are kept in fp32, whatever the precision, and rounded to it when a layer's are gathered."""


RECOMPUTE: dict[Recompute, dict[str, Any]] = {
    "none": {},
    "selective": {},  # scmf.model.recompute
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}
"""Megatron's settings for each."""


def transformer_config(config: BackboneConfig, *, layout: ModelLayout, precision: Arithmetic, on_gpu: bool) -> Any:
    """Megatron's configuration of a transformer.

    Args:
        config: sizes, dropout, norms.
        layout: sizes along every axis, and recomputation.
        precision: of parameters and activations; optimizer state and reductions are fp32 in either.
        on_gpu: use the fused kernels that exist on GPUs only.
    """
    dtype = torch.float32 if layout.fsdp else dtype_of(precision)
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
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        # The loss is a sum over targets; Megatron divides the gradient by the targets of all ranks and microbatches.
        calculate_per_token_loss=True,
        # Weights are drawn by scmf.model.initial, alike in every layout; Megatron's own draw would be lost time.
        # (perform_initialization=False is not the way: it leaves out the attributes of split tensors as well.)
        init_method=_leave,
        output_layer_init_method=_leave,
        use_cpu_initialization=not on_gpu,
        batch_p2p_sync=on_gpu,
        bias_dropout_fusion=on_gpu and can_compile(),
        # Megatron's fused bias and GELU is the tanh approximation: the model would not be the same on a CPU.
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        # Rotary positions of packed segments; the other way reads the segments' lengths back from the device. The
        # kernel is Transformer Engine's, which fp32 does without.
        apply_rope_fusion=on_gpu and precision != "fp32" and config.positions == "rotary",
        cuda_graph_scope=[],  # the default warns that it is deprecated
        **RECOMPUTE[layout.recompute],
        **(precision.settings if isinstance(precision, Fp8) else {}),
    )


def _leave(tensor: torch.Tensor) -> None:
    """Initialise nothing."""
