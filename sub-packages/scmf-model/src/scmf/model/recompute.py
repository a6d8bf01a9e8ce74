"""The feed-forward without its activations. In: hidden states. Out: the same numbers; what the backward pass needs
is computed again from the input.

Megatron 0.16.1 has this as `recompute_modules=["mlp"]`, which never returns from its backward pass when linears
have a bias: its checkpoint function returns the bias, and autograd makes the parameter a result of it.
"""

from __future__ import annotations

from typing import Any

from torch.utils.checkpoint import checkpoint

from scmf.model.megatron import MLP


def recompute_feed_forwards(block: Any) -> None:
    """Let every layer of a Megatron TransformerBlock keep only the input of its feed-forward.

    That keeps the most of all, its inner width being 4 x hidden; the attention kernels, ours and Transformer
    Engine's, compute their weights again in any case.
    """
    for layer in block.layers:
        # Not in the spec: Megatron's layer passes the process groups on to its own MLP by type.
        layer.mlp.__class__ = RecomputedMLP


class RecomputedMLP(MLP):
    """Megatron's feed-forward, of which only the input is kept. It draws no random numbers."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What Megatron's returns: (T, 1, D) and the bias that is added later."""
        if not self.training:
            return super().forward(*args, **kwargs)
        return checkpoint(super().forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
