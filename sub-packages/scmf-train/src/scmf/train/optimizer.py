"""Optimizers in Megatron's wrappers. In: a wrapped model. Out: an optimizer whose decay follows module types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from scmf.core.errors import TrainingError
from scmf.model.megatron import (
    MegatronOptimizer,
    MegatronOptimizerConfig,
    ParamKey,
    get_megatron_optimizer,
)
from scmf.model.seam import cuda_type_names
from scmf.model.transformer_config import DTYPES, Precision
from scmf.train.gradients import clip, parts
from scmf.train.optimizer_config import AdamWConfig, OptimizerConfig

NORM_NAMES = ("LayerNorm", "RMSNorm", "TENorm")

LOSS_SCALE = {"initial_loss_scale": 2.0**16, "min_loss_scale": 2.0**-14, "loss_scale_window": 2000, "hysteresis": 1}
"""fp16's: halved at every overflow, doubled after so many steps without one. Source: torch.amp.GradScaler. Its floor
is below one, because what is scaled is the sum of a microbatch's losses, not their mean."""


def build_optimizer(
    models: Sequence[Any],
    config: OptimizerConfig,
    *,
    groups: Any,
    precision: Precision,
    shard: bool = False,
) -> MegatronOptimizer:
    """The optimizer of a DistributedDataParallel-wrapped model, with fp32 state and, under bf16, fp32 main parameters.

    Megatron builds AdamW (Transformer Engine's on GPUs); in the same wrapper another kind takes its place.

    Args:
        models: Megatron's DistributedDataParallel around each stage of this rank.
        config: which, its rates and decay.
        groups: Megatron's ProcessGroupCollection.
        precision: of the model's parameters.
        shard: each data-parallel rank keeps the state of its share; the models are wrapped for it.
    """
    for model in models:
        mark_decay(model)
    settings = MegatronOptimizerConfig(
        optimizer="adam",
        lr=config.lr,
        weight_decay=config.weight_decay,
        clip_grad=config.clip or 0.0,
        bf16=precision in ("bf16", "fp8"),
        fp16=precision == "fp16",
        params_dtype=DTYPES[precision],
        **LOSS_SCALE,
        use_distributed_optimizer=shard,
        overlap_param_gather=models[0].ddp_config.overlap_param_gather,
    )
    with cuda_type_names():
        optimizer = get_megatron_optimizer(
            settings,
            list(models),
            config_overrides=_overrides(config),
            use_gloo_process_groups=False,
            pg_collection=groups,
        )
    if not isinstance(config, AdamWConfig):
        _exchange(optimizer, config)
    apply_settings(optimizer, config)
    return optimizer


def _overrides(config: OptimizerConfig) -> dict[ParamKey, dict[str, Any]]:
    """What Megatron makes groups of parameters by."""
    overrides: dict[ParamKey, dict[str, Any]] = {ParamKey(attr="no_weight_decay"): {"wd_mult": 0.0}}
    if config.by_matrix:
        overrides[ParamKey(attr="hidden_matrix")] = {"hidden_matrix": True}
    return overrides


def _exchange(optimizer: MegatronOptimizer, config: OptimizerConfig) -> None:
    """Put the config's optimizer in the place of the AdamW that Megatron has built, over the same groups.

    The wrappers hold fp32 copies of the parameters, or this rank's share of them, in these groups; they know
    nothing else of the optimizer inside.
    """
    for part in parts(optimizer):
        if part.optimizer is None:
            continue
        groups = part.optimizer.param_groups
        for group in groups:
            for key in part.optimizer.defaults:
                group.pop(key, None)
            group.setdefault("hidden_matrix", False)
        # Shares of fp32 parameters are views of them, which torch refuses as parameters and updates all the same.
        held = [group["params"] for group in groups]
        for group, params in zip(groups, held, strict=True):
            group["params"] = [p for p in params if p.is_leaf]
        part.optimizer = config.build(groups)
        for group, params in zip(groups, held, strict=True):
            group["params"] = params


def apply_settings(optimizer: MegatronOptimizer, config: OptimizerConfig) -> None:
    """Write the config's settings into the parameter groups: at the start, and again over those of a checkpoint.

    Args:
        optimizer: whose groups are written.
        config: decay and what is the kind's own. The learning rate is written at every step.
    """
    for group in optimizer.param_groups:
        group["weight_decay"] = config.weight_decay * group["wd_mult"]
        group.update(config.settings(group))
        if isinstance(config, AdamWConfig) and group["params"] and group["params"][0].device.type == "cpu":
            # torch's one-pass kernel; on GPUs Megatron has taken Transformer Engine's.
            group["fused"], group["foreach"] = True, False


def describe_optimizer(config: OptimizerConfig, *, ema: float | None) -> str:
    """One line for the console.

    Args:
        config: of the run.
        ema: decay of the averaged weights, if they are kept.
    """
    words = [f"optim  {config.kind}, peak lr {config.lr:g}"]
    if config.weight_decay and not config.decoupled:
        words.append(
            f"weight_decay {config.weight_decay:g} is classic L2, added to the gradient (adamw keeps it apart)"
        )
    elif config.weight_decay:
        words.append(f"weight_decay {config.weight_decay:g}, decoupled")
    return "; ".join([*words, *([] if ema is None else [f"average of the weights with decay {ema:g}"])])


def mark_decay(model: nn.Module) -> None:
    """Mark every parameter that takes no weight decay with the attribute `no_weight_decay`.

    By module type, not by name: matrices of linears and embeddings decay; biases and all of a norm do not. Those of
    linears inside the layers also get `hidden_matrix`.

    Raises:
        TrainingError: a parameter of a module type that is in neither class.
    """
    seen: set[int] = set()
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                parameter.no_weight_decay = not _decays(module, key, where=f"{name}.{key}")
                inside = "layers" in name.split(".") and "Linear" in type(module).__name__
                parameter.hidden_matrix = inside and not parameter.no_weight_decay


def decays(parameter: nn.Parameter) -> bool:
    """Whether `mark_decay` has found that a parameter takes weight decay."""
    return not parameter.no_weight_decay  # type: ignore[attr-defined]


def _decays(module: nn.Module, key: str, *, where: str) -> bool:
    kind = type(module).__name__
    # Transformer Engine keeps a norm's weight inside the linear after it, as layer_norm_weight.
    if (
        key.endswith("bias")
        or key.startswith("layer_norm_")
        or any(norm in kind for norm in NORM_NAMES if "Linear" not in kind)
    ):
        return False
    if key == "weight" and any(word in kind for word in ("Linear", "Embedding", "Head")):
        return True
    raise TrainingError(
        f"no rule says whether {kind}.{key} takes weight decay",
        where=where,
        fix="add the module's type to scmf.train.optimizer",
    )


@torch.no_grad()
def update(optimizer: MegatronOptimizer, config: OptimizerConfig, *, lr: float, norm: float) -> None:
    """Clip and step with gradients that are ready.

    Args:
        optimizer: from `build_optimizer`, after `prepare_grads`.
        config: for the clip norm.
        lr: learning rate of this step.
        norm: L2 norm of the whole gradient, finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    if config.clip is not None:
        clip(optimizer, norm=norm, largest=config.clip)
    with cuda_type_names():
        optimizer.step_with_ready_grads()


def loss_scale_can_fall(optimizer: MegatronOptimizer) -> bool:
    """Whether fp16's loss scale is above its floor; False where there is none. Waits for the device."""
    scalers = [part.grad_scaler for part in parts(optimizer) if getattr(part, "grad_scaler", None) is not None]
    return any(bool(scaler.scale > scaler.min_scale) for scaler in scalers)


def optimizer_parameters(optimizer: MegatronOptimizer) -> list[torch.nn.Parameter]:
    """All parameters that the optimizer updates on this rank."""
    return [p for group in optimizer.param_groups for p in group["params"]]
