"""How a token knows its place. In: a count of places and a width. Out: the table that tells places apart, float32.

Learned positions are a parameter of scmf.model.embedding; those of this file are computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

LONGEST_WAVELENGTH = 10_000.0
"""In units of 2 pi places. Source: Vaswani et al., 2017; Su et al., 2021."""


def angles(places: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """(places, width / 2) float32, radians: place x frequency, the frequencies falling from 1 geometrically.

    Args:
        places: rows, from place 0.
        width: of what is turned or added to; even.
        device: where the table is made.
    """
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    return torch.outer(torch.arange(places, dtype=torch.float32, device=device), LONGEST_WAVELENGTH**-exponents)


def sinusoids(places: int, width: int) -> Tensor:
    """(places, width) float32: sine and cosine of each wavelength in turn.

    Source: Vaswani et al., 2017 (arXiv:1706.03762), section 3.5.
    """
    table = angles(places, width)
    return torch.stack([table.sin(), table.cos()], -1).flatten(1)


def rotary_angles(longest: int, width: int, *, device: torch.device) -> Tensor:
    """(longest, 1, 1, width) float32, radians: how far queries and keys are turned, as Megatron takes it.

    Args:
        longest: upper bound of the segments' lengths.
        width: of a head; even.
        device: of the pack.

    Source: Su et al., 2021 (arXiv:2104.09864); halves, not neighbours, are turned together, as in GPT-NeoX and ESM-2.
    """
    # A table as long as the pack is one for the whole pack to Megatron 0.16.1, which then does not count from 0 again
    # in each segment. Scores depend on distances alone, so that nothing but rounding comes of it.
    table = angles(longest, width, device=device)
    return torch.cat([table, table], -1)[:, None, None, :]
