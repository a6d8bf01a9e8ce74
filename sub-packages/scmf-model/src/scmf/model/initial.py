"""Initial weights from (seed, global name). In: a model, or one rank's part of it. Out: the same model in every layout.

Megatron draws each stage and each slice from its own generator, so that TP1 and TP2 start from different models.
Here every tensor is drawn whole, from a generator made of the seed and its name in the whole model, and sliced.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from scmf.core.random import derive_seed
from scmf.model.config import BackboneConfig

_LAYER = re.compile(r"^(encoder|decoder)\.layers\.(\d+)\.(.*)$")
_RESIDUAL = ("self_attention.linear_proj.weight", "mlp.linear_fc2.weight")


def global_names(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters under their names in the whole model, the same in every layout and for both sets of kernels."""
    from scmf.model.spec import FUSED_NORM_KEYS

    for local, parameter in model.named_parameters():
        name = local
        if match := _LAYER.match(local):
            number = model.block.layers[int(match[2])].layer_number - 1
            rest = match[3]
            for key, fused in FUSED_NORM_KEYS.items():
                if rest.startswith(key):
                    rest = fused + rest.removeprefix(key)
            name = f"{match[1]}.layers.{number}.{rest}"
        yield ("embedding.word_embeddings.weight" if name == "output_layer.weight" else name), parameter


@torch.no_grad()
def draw_weights(model: Any, config: BackboneConfig, *, seed: int) -> None:
    """Fill every parameter of this rank's part of the model.

    Matrices: normal with `init_std`; projections back to the residual stream divided by sqrt(2 layers), as
    Megatron does. Norm weights one, biases zero.

    Args:
        model: a Transformer.
        config: for the standard deviation and the number of layers.
        seed: of the run.
    """
    group = model.tp_group
    for name, parameter in global_names(model):
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        std = config.init_std / (math.sqrt(2 * config.layers) if name.endswith(_RESIDUAL) else 1.0)
        parameter.copy_(_own_part(_draw(parameter, name, seed=seed, ranks=group.size()) * std, parameter, group))


def _partition_axis(parameter: torch.nn.Parameter) -> int | None:
    return parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None  # type: ignore[attr-defined]


def _draw(parameter: torch.nn.Parameter, name: str, *, seed: int, ranks: int) -> Tensor:
    """The whole tensor, float32 on the CPU, standard normal."""
    shape = list(parameter.shape)
    axis = _partition_axis(parameter)
    if axis is not None:
        shape[axis] *= ranks
    generator = torch.Generator().manual_seed(derive_seed(seed, "weights/" + name))
    return torch.randn(shape, generator=generator)


def _own_part(whole: Tensor, parameter: torch.nn.Parameter, group: Any) -> Tensor:
    axis = _partition_axis(parameter)
    return whole if axis is None else whole.chunk(group.size(), axis)[group.rank()]
