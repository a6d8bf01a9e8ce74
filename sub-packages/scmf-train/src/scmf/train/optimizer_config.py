"""Kinds of optimizers. In: the `trainer.optimizer` section. Out: torch's optimizer over groups of parameters.

torch is imported where an optimizer is built, so that reading a config stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from scmf.core.config import Variant
from scmf.core.config_kind import dotted

if TYPE_CHECKING:
    import torch

PositiveFloat = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Decay = Annotated[float, Field(ge=0.0, le=1.0)]
Groups = list[dict[str, Any]]
"""PyTorch's parameter groups. `wd_mult` is 1.0 for weights that decay and 0.0 for others; `hidden_matrix` is true for
the matrices inside the layers, where the kind has asked for it."""


class OptimizerConfig(Variant):
    """What a step does with the gradient. A kind of your own adds its fields, `settings` and `build`."""

    elementwise: ClassVar[bool] = False
    """Each number is updated from its own gradient and state alone, so that ranks may share a matrix out."""
    by_matrix: ClassVar[bool] = False
    """Matrices inside the layers are updated in another way than the rest, and have groups of their own."""
    decoupled: ClassVar[bool] = False
    """`weight_decay` shrinks the weight by itself; false: classic L2, added to the gradient after clipping."""

    lr: PositiveFloat
    """Peak learning rate."""
    weight_decay: Decay = 0.0
    """Classic L2 decay of linear and embedding weights, added to their clipped gradient; biases and norms have none."""
    clip: PositiveFloat | None = 1.0
    """Largest L2 norm of the gradient over all parameters; null does not clip."""

    def settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a group by torch's names, besides the learning rate and the decay.

        Args:
            group: of torch's optimizer.
        """
        del group
        return {}

    def states(self, *, hidden_matrix: bool) -> int:
        """Numbers that are kept for each number that is trained: what the optimizer's memory is planned by.

        Args:
            hidden_matrix: of the matrices inside the layers; false: of everything else.
        """
        del hidden_matrix
        return 2

    def state(self) -> dict[str, str | bool]:
        """What decides which tensors the optimizer keeps; a resumed run has to have it unchanged."""
        return {"kind": self.kind}

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """PyTorch's optimizer over the groups, which it takes as they are and goes on using.

        Raises:
            NotImplementedError: a kind of your own without it.
        """
        raise NotImplementedError(f"{dotted(type(self))} has no build(groups)")


class _AdamFamily(OptimizerConfig):
    """Running means of the gradient and of its size."""

    elementwise = True

    beta1: Share = 0.9
    """Decay of the gradient's running mean. Source: Adam."""
    beta2: Share = 0.999
    """Decay of the squared gradient's running mean. Source: Adam."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the squared gradient's mean. Source: Adam."""

    def settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Betas and epsilon."""
        del group
        return {"betas": (self.beta1, self.beta2), "eps": self.eps}


class AdamWConfig(_AdamFamily, kind="adamw"):
    """Adam with decoupled weight decay. Megatron's `adam` decouples too, so BioNeMo's recipes are AdamW as well."""

    decoupled = True

    weight_decay: Decay = 0.01
    """Decoupled decay, multiplied by the learning rate each step. Source: BioNeMo, PyTorch."""

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """PyTorch's AdamW; on GPUs Megatron takes Transformer Engine's instead."""
        from torch.optim import AdamW

        return AdamW(groups, lr=self.lr, fused=True)


class AdamConfig(_AdamFamily, kind="adam"):
    """Adam. Without decay unless asked for, and then it is classic L2; adamw is what decouples it."""

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """PyTorch's Adam."""
        from torch.optim import Adam

        return Adam(groups, lr=self.lr, fused=True)


class AdamaxConfig(_AdamFamily, kind="adamax"):
    """Adam with the largest gradient of late in place of the squares' mean."""

    beta2: Share = 0.999
    """Decay of the gradient's running maximum. Source: Adam, section 7.1."""
    eps: PositiveFloat = 1e-8
    """Added to the gradient's size. Source: PyTorch."""

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """PyTorch's Adamax."""
        from torch.optim import Adamax

        return Adamax(groups, lr=self.lr)


class SgdConfig(OptimizerConfig, kind="sgd"):
    """Stochastic gradient descent, with momentum if asked for."""

    elementwise = True

    momentum: Share = 0.9
    """Decay of the gradient's running sum; 0.0 keeps none."""
    nesterov: bool = False
    """Look ahead along the momentum, which has to be above 0.0."""

    def settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Momentum."""
        del group
        return {"momentum": self.momentum, "nesterov": self.nesterov and self.momentum > 0.0}

    def states(self, *, hidden_matrix: bool) -> int:
        """A running sum where there is momentum."""
        del hidden_matrix
        return int(self.momentum > 0.0)

    def state(self) -> dict[str, str | bool]:
        """Without momentum there is no running sum."""
        return {"kind": self.kind, "momentum": self.momentum > 0.0}

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """PyTorch's SGD."""
        from torch.optim import SGD

        return SGD(groups, lr=self.lr)


class RmspropConfig(OptimizerConfig, kind="rmsprop"):
    """The gradient over the root of its square's running mean."""

    elementwise = True

    alpha: Share = 0.99
    """Decay of the squared gradient's running mean. Source: PyTorch."""
    momentum: Share = 0.0
    """Decay of the running sum of updates; 0.0 keeps none."""
    eps: PositiveFloat = 1e-8
    """Added to the root. Source: PyTorch."""

    def settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Alpha, momentum and epsilon."""
        del group
        return {"alpha": self.alpha, "momentum": self.momentum, "eps": self.eps}

    def states(self, *, hidden_matrix: bool) -> int:
        """The square's mean, and a running sum where there is momentum."""
        del hidden_matrix
        return 1 + int(self.momentum > 0.0)

    def state(self) -> dict[str, str | bool]:
        """Without momentum there is no running sum."""
        return {"kind": self.kind, "momentum": self.momentum > 0.0}

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """PyTorch's RMSprop."""
        from torch.optim import RMSprop

        return RMSprop(groups, lr=self.lr)


class MuonConfig(OptimizerConfig, kind="muon"):
    """Muon for the matrices inside the layers, AdamW for embeddings, head, biases and norms."""

    by_matrix = True
    decoupled = True

    weight_decay: Decay = 0.01
    """Decoupled decay of both parts, multiplied by the learning rate each step."""
    momentum: Share = 0.95
    """Decay of the gradient's running mean under Muon. Source: Jordan et al. 2024."""
    nesterov: bool = True
    """Look ahead along the momentum. Source: Jordan et al. 2024."""
    iterations: Annotated[int, Field(ge=1, le=99)] = 5
    """Newton-Schulz iterations, in bf16, that make an update orthogonal. Source: Jordan et al. 2024."""
    beta1: Share = 0.9
    """AdamW's, for the rest."""
    beta2: Share = 0.999
    """AdamW's, for the rest."""
    eps: PositiveFloat = 1e-8
    """AdamW's, for the rest."""

    def settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Muon's for matrices inside the layers, AdamW's for the rest."""
        if not group["hidden_matrix"]:
            return {"betas": (self.beta1, self.beta2), "eps": self.eps}
        return {"momentum": self.momentum, "nesterov": self.nesterov, "ns_steps": self.iterations}

    def states(self, *, hidden_matrix: bool) -> int:
        """Muon's momentum, or AdamW's two."""
        return 1 if hidden_matrix else 2

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """PyTorch's Muon and AdamW as one."""
        from scmf.train.muon import MuonWithAdamW

        return MuonWithAdamW(groups, lr=self.lr)


OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    "adamw": AdamWConfig,
    "adam": AdamConfig,
    "adamax": AdamaxConfig,
    "sgd": SgdConfig,
    "rmsprop": RmspropConfig,
    "muon": MuonConfig,
}
"""Built-in kinds; the first is that of a section without one."""
