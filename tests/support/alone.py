"""One rank in this process, for tests of the model: joined once, with Megatron's groups, for the whole session."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from functools import cache
from typing import Any

from scmf.model.config import BackboneConfig, DecoderConfig, EncoderConfig
from scmf.model.transformer import Transformer, VocabularyShape, build_transformer
from scmf.train.config import ParallelConfig
from scmf.train.layout import Layout, lay_out, seed_step
from scmf.train.world import join_world


@cache
def alone() -> Layout:
    """The layout of one rank; stays for the session because Megatron's groups are global."""
    stack = ExitStack()
    layout = stack.enter_context(lay_out(stack.enter_context(join_world()), ParallelConfig()))
    seed_step(layout, seed=0, step=0)
    atexit.register(stack.close)
    return layout


def small_encoder(vocabulary: VocabularyShape, **changes: Any) -> Transformer:
    """A two-layer encoder on the CPU."""
    return _small(EncoderConfig, vocabulary, changes)


def small_decoder(vocabulary: VocabularyShape, **changes: Any) -> Transformer:
    """A two-layer decoder on the CPU."""
    return _small(DecoderConfig, vocabulary, changes)


def _small(kind: type[BackboneConfig], vocabulary: VocabularyShape, changes: dict[str, Any]) -> Transformer:
    sizes: dict[str, Any] = {"layers": 2, "hidden": 64, "ffn": 128, "heads": 4} | changes
    layout = alone()
    return build_transformer(
        kind(**sizes),
        vocabulary=vocabulary,
        groups=layout.groups,
        layout=layout.model,
        precision="fp32",
        seed=3,
    )
