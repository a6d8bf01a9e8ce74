"""Every name of Megatron-Core that scmf uses, imported in one place and in the right order.

Megatron-Core is imported after Transformer Engine has been hidden where it cannot work, and with its
"Apex is not installed" warnings silenced: what is used instead is a choice of ours, in `scmf.model.spec`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from scmf.model.device import hide_unusable_transformer_engine, uncompiled_without_gpu


@contextmanager
def _without_wandb() -> Iterator[None]:
    """Keep Megatron's timers and inference, which scmf does not use, from importing W&B: 2 CPU-seconds a rank.

    A run that asks for the mirror imports it itself (`scmf.train.wandb_mirror`).
    """
    if "wandb" in sys.modules:
        yield
        return
    sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["wandb"]


hide_unusable_transformer_engine()
with warnings.catch_warnings(), _without_wandb(), uncompiled_without_gpu():
    warnings.simplefilter("ignore")
    from megatron.core import dist_checkpointing, tensor_parallel
    from megatron.core import parallel_state as mpu
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.models.backends import LocalSpecProvider  # noqa: F401  imported late by Megatron, with a warning
    from megatron.core.models.common.language_module.language_module import LanguageModule
    from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
    from megatron.core.optimizer import get_megatron_optimizer
    from megatron.core.optimizer.optimizer import MegatronOptimizer
    from megatron.core.optimizer.optimizer_config import ParamKey
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
        copy_to_tensor_model_parallel_region,
        gather_from_sequence_parallel_region,
        gather_from_tensor_model_parallel_region,
        get_cuda_rng_tracker,
        reduce_from_tensor_model_parallel_region,
        scatter_to_sequence_parallel_region,
        set_defaults_if_not_set_tensor_model_parallel_attributes,
        vocab_parallel_cross_entropy,
    )
    from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
    from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
    from megatron.core.transformer.enums import AttnMaskType, ModelType
    from megatron.core.transformer.identity_op import IdentityOp
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.module import MegatronModule
    from megatron.core.transformer.spec_utils import ModuleSpec, build_module
    from megatron.core.transformer.transformer_block import TransformerBlock, TransformerBlockSubmodules
    from megatron.core.transformer.transformer_config import TransformerConfig
    from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
    from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

__all__ = [
    "MLP",
    "AttnMaskType",
    "ColumnParallelLinear",
    "DistributedDataParallel",
    "DistributedDataParallelConfig",
    "IdentityOp",
    "LanguageModule",
    "MLPSubmodules",
    "MegatronModule",
    "MegatronOptimizer",
    "MegatronOptimizerConfig",
    "ModelType",
    "ModuleSpec",
    "PackedSeqParams",
    "ParamKey",
    "ProcessGroupCollection",
    "RowParallelLinear",
    "SelfAttention",
    "SelfAttentionSubmodules",
    "TransformerBlock",
    "TransformerBlockSubmodules",
    "TransformerConfig",
    "TransformerLayer",
    "TransformerLayerSubmodules",
    "VocabParallelEmbedding",
    "build_module",
    "copy_to_tensor_model_parallel_region",
    "dist_checkpointing",
    "finalize_model_grads",
    "gather_from_sequence_parallel_region",
    "gather_from_tensor_model_parallel_region",
    "get_bias_dropout_add",
    "get_cuda_rng_tracker",
    "get_forward_backward_func",
    "get_megatron_optimizer",
    "make_sharded_tensors_for_checkpoint",
    "mpu",
    "reduce_from_tensor_model_parallel_region",
    "scatter_to_sequence_parallel_region",
    "set_defaults_if_not_set_tensor_model_parallel_attributes",
    "set_tensor_model_parallel_attributes",
    "tensor_parallel",
    "vocab_parallel_cross_entropy",
]


def hush_megatron() -> None:
    """Silence, by their words, warnings of torch about calls that Megatron-Core 0.16.1 makes and we cannot mend."""
    for message in (
        r"`torch\.distributed\.(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated",
        r"Please use DTensor instead and we are deprecating ShardedTensor",
        r"`load_state_dict` is deprecated and will be removed in future versions",
    ):
        warnings.filterwarnings("ignore", message=message, category=FutureWarning)
    # Its distributed optimizer clears the gradients of views of the parameters.
    warnings.filterwarnings(
        "ignore", message=r"The \.grad attribute of a Tensor that is not a leaf", category=UserWarning
    )
