"""The transformer: embeddings, a Megatron TransformerBlock, a head. The same on CPU and GPU.

In: a pack of whole cells. Out: the loss of every target on the last pipeline stage, hidden states on the others.
Shapes: T positions, M targets, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scmf.model.cell_head import cell_heads
from scmf.model.config import BackboneConfig
from scmf.model.device import has_gpu
from scmf.model.embedding import PackEmbedding
from scmf.model.head import vocabulary_head
from scmf.model.initial import draw_weights
from scmf.model.megatron import (
    LanguageModule,
    ModelType,
    TransformerBlock,
    TransformerBlockSubmodules,
    gather_from_sequence_parallel_region,
    set_defaults_if_not_set_tensor_model_parallel_attributes,
)
from scmf.model.pack import Pack
from scmf.model.positions import rotary_angles
from scmf.model.recompute import recompute_feed_forwards
from scmf.model.spec import (
    Parts,
    choose_kernels,
    explained_attention,
    layer_spec,
    local_parts,
    transformer_engine_parts,
)
from scmf.model.task import SeveralTask
from scmf.model.transformer_config import Arithmetic, ModelLayout, transformer_config


@dataclass(frozen=True)
class VocabularyShape:
    """What the model has to know of a vocabulary."""

    size: int
    """Tokens, before padding."""
    seq_length: int
    """Positions a cell may have."""


class Transformer(LanguageModule):
    """One pipeline stage of a transformer over packed cells; the whole model when there is one stage.

    Args:
        config: sizes, norms, dropout.
        megatron: Megatron's TransformerConfig made from it.
        vocabulary: sizes of the embeddings.
        groups: Megatron's ProcessGroupCollection with tp, pp, cp and embd.
        parts: modules of one set of kernels.
        turn: which of the rank's interleaved stages this is, from 0.
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        megatron: Any,
        vocabulary: VocabularyShape,
        groups: Any,
        parts: Parts,
        turn: int = 0,
    ) -> None:
        super().__init__(config=megatron, pg_collection=groups)
        self.model_type = ModelType.encoder_or_decoder
        self.causal = config.causal
        self.rotary = config.positions == "rotary"
        turns = megatron.virtual_pipeline_model_parallel_size or 1
        # Megatron's names; it takes None for stages that are not interleaved.
        self.vp_stage = turn if turns > 1 else None
        self.share_embeddings_and_output_weights = True
        self.pre_process = groups.pp.rank() == 0 and turn == 0
        self.post_process = groups.pp.rank() == groups.pp.size() - 1 and turn == turns - 1
        padded = config.padded_vocabulary_size(vocabulary.size)
        if self.pre_process:
            self.embedding = PackEmbedding(
                megatron,
                vocabulary_size=padded,
                seq_length=vocabulary.seq_length,
                positions=config.positions,
                norm=parts.norm if config.norm == "post" else None,
                tp_group=groups.tp,
            )
        layers = config.layers // (groups.pp.size() * turns)
        block = TransformerBlock(
            megatron,
            TransformerBlockSubmodules(
                layer_specs=[layer_spec(parts, config.norm, ffn=config.ffn, causal=config.causal)] * layers,
                layer_norm=parts.norm,
            ),
            post_layer_norm=config.norm == "pre",
            pre_process=self.pre_process,
            post_process=self.post_process,
            pg_collection=groups,
            vp_stage=self.vp_stage,
        )
        # Megatron's names for the two, and so a checkpoint's.
        self.add_module("decoder" if config.causal else "encoder", block)
        if self.post_process:
            self.output_layer = vocabulary_head(
                config.task,
                megatron,
                vocabulary_size=vocabulary.size,
                rows=padded,
                own_weight=not self.pre_process,
                tp_group=groups.tp,
            )
            self.cell_heads = cell_heads(config.task, megatron)
        self.several = isinstance(config.task, SeveralTask)
        self.objectives = tuple(config.task.objectives)
        """Names of what the losses are of, in the order in which `forward` gives them."""
        self.setup_embeddings_and_output_layer()

    @property
    def block(self) -> Any:
        """Megatron's TransformerBlock with the layers of this stage."""
        return self.decoder if self.causal else self.encoder

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Take the hidden states that the stage before has sent; Megatron's schedule calls this."""
        self.block.set_input_tensor(input_tensor[0] if isinstance(input_tensor, list) else input_tensor)

    def forward(self, pack: Pack) -> Tensor | tuple[Tensor, ...]:
        """Losses, or the hidden states for the next stage.

        Args:
            pack: T positions; T divisible by the tensor ranks under sequence parallelism.

        Returns:
            (M,) float32 nats on the last stage, or (L, columns) of whole cells; a tuple of those where the task has
            several objectives. (T, 1, D), or its share under sequence parallelism, on the other stages.
        """
        hidden = self._layers(pack)
        if not self.post_process:
            return hidden
        return self._losses(self._whole(hidden), pack)

    def _losses(self, hidden_TD: Tensor, pack: Pack) -> Tensor | tuple[Tensor, ...]:
        of_cells = {name: head(hidden_TD, pack, pack.cell_targets[name]) for name, head in self.cell_heads.items()}
        # Where no objective asks for tokens their head takes part with no target: its gradient is zero, not missing.
        unasked = len(of_cells) == len(self.objectives)
        positions, targets = (t[:0] if unasked else t for t in (pack.target_positions, pack.targets))
        weight_VD = self.shared_embedding_or_output_weight()
        of_tokens = self.output_layer(hidden_TD[positions], targets, weight_VD=weight_VD)
        losses = [of_cells.get(name, of_tokens) for name in self.objectives]
        if unasked:
            losses[0] = losses[0] + of_tokens.sum()
        return tuple(losses) if self.several else losses[0]

    def logits(self, pack: Pack, positions: Tensor) -> Tensor:
        """Scores of every token of the vocabulary; on the last stage only, collective over tensor ranks.

        Args:
            pack: T positions.
            positions: (M,) int64 positions in the pack.

        Returns:
            (M, vocabulary size) in the precision of the model; the rows that pad the vocabulary are left out.
        """
        hidden_MD = self.hidden_states(pack)[positions]
        return self.output_layer.whole_logits(hidden_MD, weight_VD=self.shared_embedding_or_output_weight())

    def hidden_states(self, pack: Pack) -> Tensor:
        """(T, D) final hidden states of every position; on the last stage only."""
        return self._whole(self._layers(pack))

    def _layers(self, pack: Pack) -> Tensor:
        hidden = self.embedding(pack.input_ids, pack.positions) if self.pre_process else None
        with explained_attention():
            output: Tensor = self.block(
                hidden, None, rotary_pos_emb=self._rotary_angles(pack), packed_seq_params=pack.packed_seq_params
            )
        return output

    def _rotary_angles(self, pack: Pack) -> Tensor | None:
        if not self.rotary:
            return None
        longest, width = pack.packed_seq_params.max_seqlen_q, self.config.kv_channels
        return rotary_angles(longest, width, device=pack.input_ids.device)

    def _whole(self, hidden: Tensor) -> Tensor:
        """(T, D) from (T, 1, D) or from this rank's share of it."""
        if self.config.sequence_parallel:
            # What follows is computed alike on every tensor rank: the gradient is cut, not summed.
            hidden = gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=False, group=self.tp_group
            )
        return hidden.squeeze(1)


def build_transformer(
    config: BackboneConfig,
    *,
    vocabulary: VocabularyShape,
    groups: Any,
    layout: ModelLayout,
    precision: Arithmetic,
    seed: int,
) -> Transformer:
    """Build this rank's stage of a model, with its initial weights; on a GPU parts of it are there already.

    Args:
        config: sizes, norms, dropout.
        vocabulary: sizes of the embeddings.
        groups: Megatron's ProcessGroupCollection.
        layout: tensor and pipeline sizes, equal to the groups' sizes; the stage's turn, and recomputation.
        precision: of activations, and of parameters but for FSDP's.
        seed: of the initial weights, which depend on (seed, name) alone.

    Raises:
        MachineError: a GPU without Transformer Engine.
    """
    parts = transformer_engine_parts() if choose_kernels(precision) == "te" else local_parts()
    megatron = transformer_config(config, layout=layout, precision=precision, on_gpu=has_gpu())
    model = Transformer(config, megatron=megatron, vocabulary=vocabulary, groups=groups, parts=parts, turn=layout.turn)
    if layout.recompute == "selective":
        recompute_feed_forwards(model.block)
    draw_weights(model, config, seed=seed)
    for parameter in model.parameters():
        set_defaults_if_not_set_tensor_model_parallel_attributes(parameter)
    return model
