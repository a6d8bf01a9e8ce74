"""Muon and AdamW as one optimizer. In: groups of parameters, some of them matrices inside layers. Out: updates."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """torch's Muon over the groups with `hidden_matrix`, torch's AdamW over the others.

    Muon's rate is scaled by 0.2 times the root of the matrix's longer side, so that an update is as large as AdamW's
    and both share one learning rate. Source: Liu et al., Muon is Scalable for LLM Training, 2025.

    Args:
        groups: with `hidden_matrix`; taken as they are.
        lr: learning rate of the first step.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float) -> None:
        for group in groups:
            group.setdefault("hidden_matrix", False)
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        # Both have these very groups, so that rates and decays that are written into them hold for both.
        hidden = [group for group in self.param_groups if group["hidden_matrix"]]
        others = [group for group in self.param_groups if not group["hidden_matrix"]]
        self._muon = Muon(hidden, lr=lr, adjust_lr_fn="match_rms_adamw") if hidden else None
        self._adamw = AdamW(others, lr=lr, fused=True) if others else None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of everything that has a gradient."""
        del closure
        for part in (self._muon, self._adamw):
            if part is not None:
                part.state = self.state
                part.step()  # type: ignore[no-untyped-call]
