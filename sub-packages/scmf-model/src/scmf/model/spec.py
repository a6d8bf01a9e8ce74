"""The layer, as a table of parts: one table for Transformer Engine, one for Megatron's local parts.

In: pre- or post-norm, and which kernels. Out: a Megatron ModuleSpec. Both tables give the same weights under the
same checkpoint keys, so that a checkpoint moves between CPU and GPU. The only file that names Transformer
Engine's modules.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from scmf.core.errors import MachineError
from scmf.model.attention import PackedAttention
from scmf.model.device import TRANSFORMER_ENGINE, has_gpu, has_transformer_engine, transformer_engine_fault
from scmf.model.megatron import (
    MLP,
    AttnMaskType,
    ColumnParallelLinear,
    IdentityOp,
    MLPSubmodules,
    ModuleSpec,
    RowParallelLinear,
    SelfAttention,
    SelfAttentionSubmodules,
    TransformerLayer,
    TransformerLayerSubmodules,
    build_module,
    get_bias_dropout_add,
)
from scmf.model.norm import LayerNorm
from scmf.model.transformer_config import Arithmetic, Precision

Kernels = Literal["local", "te"]
NormPlace = Literal["pre", "post"]

FUSED_NORM_KEYS = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}
"""Keys of the local pre-norm layer -> keys of Transformer Engine's, which keeps a norm inside the linear after it."""


@dataclass(frozen=True)
class Parts:
    """The modules of which a layer is made, for one set of kernels."""

    norm: Any
    column_linear: Any
    norm_and_column_linear: Any
    """A column-parallel linear that normalises its input itself, or None."""
    row_linear: Any
    attention: Any


@dataclass
class PostNormSubmodules(TransformerLayerSubmodules):
    """A layer's parts and the two norms after the residual additions."""

    post_attention_norm: Any = field(default=IdentityOp)
    post_mlp_norm: Any = field(default=IdentityOp)


class PostNormLayer(TransformerLayer):
    """BERT's and Geneformer's order: x = norm(x + f(x)). Megatron's own layer is pre-norm only."""

    def __init__(self, config: Any, submodules: PostNormSubmodules, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, submodules, *args, **kwargs)
        norm = {"config": config, "hidden_size": config.hidden_size, "eps": config.layernorm_epsilon}
        self.post_attention_norm = build_module(submodules.post_attention_norm, **norm)
        self.post_mlp_norm = build_module(submodules.post_mlp_norm, **norm)

    def _forward_attention(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        hidden, context = super()._forward_attention(*args, **kwargs)
        return self.post_attention_norm(hidden), context

    def _forward_mlp(self, *args: Any, **kwargs: Any) -> Tensor:
        hidden: Tensor = self.post_mlp_norm(super()._forward_mlp(*args, **kwargs))
        return hidden


def choose_kernels(precision: Precision | Arithmetic) -> Kernels:
    """Transformer Engine on a GPU; local parts on a CPU, and in fp32.

    Transformer Engine multiplies fp32 in TF32, which has ten bits after the point, and has no fused attention for it.
    Source: its versions 2.8 to 2.20, cublaslt_gemm.cu and get_attention_backend.

    Args:
        precision: of the computation.

    Raises:
        MachineError: a GPU without Transformer Engine; training would be several times slower unnoticed.
    """
    if precision == "fp32" or not has_gpu():
        return "local"
    if has_transformer_engine():
        return "te"
    raise MachineError(
        f"this machine has a GPU but no Transformer Engine that can be imported ({transformer_engine_fault()})",
        where="scmf.model.spec",
        fix=f"pip install --no-build-isolation '{TRANSFORMER_ENGINE}' (docs/gpu.md), CUDA_VISIBLE_DEVICES= to run on "
        "the CPU, or trainer.precision=fp32, which is slow",
    )


def local_parts() -> Parts:
    """Megatron's parallel linears, torch's LayerNorm and attention."""
    return Parts(
        norm=LayerNorm,
        column_linear=ColumnParallelLinear,
        norm_and_column_linear=None,
        row_linear=RowParallelLinear,
        attention=PackedAttention,
    )


def transformer_engine_parts() -> Parts:
    """Transformer Engine's modules through Megatron's wrappers.

    Raises:
        MachineError: it is not usable on this machine.
    """
    if not has_transformer_engine():
        raise MachineError(
            "Transformer Engine is not usable here: it needs a CUDA device and its package",
            where="scmf.model.spec",
            fix=f"pip install --no-build-isolation '{TRANSFORMER_ENGINE}' on a machine with a GPU (docs/gpu.md)",
        )
    # Its attention without a fused kernel keeps segments x heads x longest x longest numbers: never taken unasked.
    os.environ.setdefault("NVTE_UNFUSED_ATTN", "0")
    from megatron.core.extensions import transformer_engine as te

    return te_parts_of(te)


@contextmanager
def explained_attention() -> Iterator[None]:
    """Tell what to change where Transformer Engine computes no attention for what it is asked.

    Raises:
        MachineError: in place of its ValueError.
    """
    try:
        yield
    except ValueError as error:
        if "No dot product attention backend" not in str(error):
            raise
        raise MachineError(
            "Transformer Engine has no fused attention for packed cells on this GPU with these heads",
            where="model.heads",
            fix="below compute capability 9.0 (an A100) install flash-attn; else use heads of at most 128 numbers, a "
            "multiple of 8; NVTE_UNFUSED_ATTN=1 takes the slow one (docs/gpu.md)",
        ) from error


def te_parts_of(te: Any) -> Parts:
    """The parts as Megatron's Transformer Engine module `te` offers them."""
    return Parts(
        norm=te.TENorm,
        column_linear=te.TEColumnParallelLinear,
        norm_and_column_linear=te.TELayerNormColumnParallelLinear,
        row_linear=te.TERowParallelLinear,
        attention=te.TEDotProductAttention,
    )


def layer_spec(parts: Parts, place: NormPlace, *, ffn: int, causal: bool = False) -> ModuleSpec:
    """Spec of one layer: attention inside the segments of a pack, then a feed-forward.

    Args:
        parts: of one set of kernels.
        place: of the norms, before or after attention and feed-forward.
        ffn: width of the feed-forward.
        causal: a token sees itself and the ones before it; otherwise the whole segment.
    """
    fused = place == "pre" and parts.norm_and_column_linear is not None
    column = parts.norm_and_column_linear if fused else parts.column_linear
    inner_norm = parts.norm if place == "pre" and not fused else IdentityOp
    common: dict[str, Any] = {
        "input_layernorm": inner_norm,
        "self_attention": ModuleSpec(
            module=SelfAttention,
            params={"attn_mask_type": AttnMaskType.padding_causal if causal else AttnMaskType.padding},
            submodules=SelfAttentionSubmodules(
                linear_qkv=column,
                core_attention=parts.attention,
                linear_proj=parts.row_linear,
                q_layernorm=IdentityOp,
                k_layernorm=IdentityOp,
            ),
        ),
        "self_attn_bda": get_bias_dropout_add,
        "pre_mlp_layernorm": inner_norm,
        "mlp": ModuleSpec(
            module=MLP,
            params={"ffn_hidden_size": ffn},
            submodules=MLPSubmodules(linear_fc1=column, linear_fc2=parts.row_linear),
        ),
        "mlp_bda": get_bias_dropout_add,
        "sharded_state_dict_keys_map": FUSED_NORM_KEYS if inner_norm is not IdentityOp else {},
    }
    if place == "pre":
        return ModuleSpec(module=TransformerLayer, submodules=TransformerLayerSubmodules(**common))
    submodules = PostNormSubmodules(**common, post_attention_norm=parts.norm, post_mlp_norm=parts.norm)
    return ModuleSpec(module=PostNormLayer, submodules=submodules)
