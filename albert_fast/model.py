"""ALBERT (Lan et al. 2019, https://arxiv.org/abs/1909.11942) on packed tokens, in plain PyTorch.

Post-LN and pre-LN follow Xiong et al. 2020 (https://arxiv.org/abs/2002.04745). `share_type` selects which weights the L
layers share and `layout` how the embeddings are built (see AlbertConfig). heads.py holds the two losses, modules.py the
modules with weights.

Dimension letters: T tokens (packed), R queries of the last layer, B sequences, S sequence length, P masked positions,
L layers, H hidden, E embedding, F feed-forward, N heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from albert_fast.attention import Queries
from albert_fast.config import AlbertConfig
from albert_fast.heads import MaskedLmHead, SentenceOrderHead
from albert_fast.modules import Embedding, LayerNorm, Linear, initialize
from albert_fast.ops import Ops, dropout_site, permute_rows, take_rows
from albert_fast.packed import Packed, PretrainingBatch, pack
from albert_fast.pretrained import PretrainedModel

if TYPE_CHECKING:
    from albert_fast.data.batches import Batch


@dataclass
class PretrainingOutput:
    """Output of AlbertForPreTraining for padded input, with HuggingFace's field names.

    last_hidden_state [B, S, H], zero at padding; pooler_output [B, H]; prediction_logits [B, P, V], or [B, S, V] if no
    positions are given; sop_logits [B, 2]; hidden_states, on request: L+1 tensors [B, S, H], the embeddings first.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    prediction_logits: Tensor
    sop_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class PretrainingLosses:
    """fp32 scalars of one micro-batch: the two losses and their accuracies, as weighted means."""

    mlm_loss: Tensor
    sop_loss: Tensor
    mlm_accuracy: Tensor
    sop_accuracy: Tensor

    @property
    def loss(self) -> Tensor:
        return self.mlm_loss + self.sop_loss


class AlbertForPreTraining(PretrainedModel):
    """ALBERT with the masked-LM and sentence-order heads."""

    def __init__(self, config: AlbertConfig, ops: str | Ops = "torch"):
        super().__init__(config, ops)
        self.albert = Albert(config, self.ops)
        self.mlm_head = MaskedLmHead(config, self.ops)
        self.sop_head = SentenceOrderHead(config.hidden_size, 2, self.ops)
        initialize(self, config.initializer_range)

    def losses(self, batch: PretrainingBatch | Batch) -> PretrainingLosses:
        """Losses of a packed micro-batch, with static shapes and without host synchronisation.

        The loader's Batch is first copied to the model's device; its dropout (in train mode) follows torch's seed.
        """
        if not isinstance(batch, PretrainingBatch):
            seed = torch.initial_seed() % 2**63 if self.training else None
            batch = PretrainingBatch.from_loader(batch, self.sop_head.weight.device, seed)
        states = self.albert(batch, batch.head_positions())  # [M + P, H]
        first, masked = states.split([len(batch.sentence_order_labels), len(batch.masked_lm_ids)])
        labels = batch.masked_lm_ids, batch.masked_lm_weights
        mlm_loss, mlm_accuracy = self.mlm_head.loss(masked, *labels, self.albert.embeddings)
        labels = batch.sentence_order_labels, batch.sentence_order_weights
        sop_loss, sop_accuracy = self.sop_head.loss(self.albert.pool(first), *labels)
        return PretrainingLosses(mlm_loss, sop_loss, mlm_accuracy, sop_accuracy)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        masked_lm_positions: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> PretrainingOutput:
        """Forward pass for padded input: input_ids, attention_mask (1 for real tokens), token_type_ids, int [B, S].

        masked_lm_positions [B, P] index columns of S. Padding on either side is removed first, so it costs nothing. The
        position id of a token is its column; the pooler reads the first real token.
        """
        packed, unpack = pack(input_ids, attention_mask, token_type_ids)
        states: list[Tensor] | None = [] if output_hidden_states else None
        last = unpack(self.albert(packed, states=states))  # [B, S, H]
        first = 0 if attention_mask is None else (attention_mask > 0).int().argmax(1)
        pooled = self.albert.pool(last[torch.arange(len(last), device=last.device), first])  # [B, H]
        masked = last
        if masked_lm_positions is not None:
            masked = last.gather(1, masked_lm_positions.long()[..., None].expand(-1, -1, last.shape[-1]))  # [B, P, H]
        logits = self.mlm_head.logits(masked.flatten(0, 1), self.albert.embeddings).unflatten(0, masked.shape[:2])
        hidden_states = tuple(unpack(state) for state in states) if states is not None else None
        return PretrainingOutput(last, pooled, logits, self.sop_head(pooled), hidden_states)


class AlbertModel(PretrainedModel):
    """ALBERT without a head."""

    def __init__(self, config: AlbertConfig, ops: str | Ops = "torch"):
        super().__init__(config, ops)
        self.albert = Albert(config, self.ops)
        initialize(self, config.initializer_range)


class Albert(nn.Module):
    """Embeddings, the encoder with shared layers, and the pooler."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.ops = ops
        self.embeddings = Embeddings(config, ops)
        self.encoder = Encoder(config, ops)
        self.pooler = Linear(config.hidden_size, config.hidden_size, ops)

    def forward(self, batch: Packed, positions: Tensor | None = None, states: list[Tensor] | None = None) -> Tensor:
        """Hidden states [T, H], or only those of `positions` [R, H], which saves work in the last layer.

        Args:
            positions: int [R], indices into T in any order, at most max_seqlen per sequence. T marks an unused entry,
                whose state is undefined.
            states: list that receives the L+1 hidden states [T, H], the embeddings first.
        """
        queries = None if positions is None else Queries.pack(positions, batch.cu_seqlens, len(batch.input_ids))
        hidden = self.encoder(self.embeddings(batch), batch, queries, states)
        return hidden if queries is None else permute_rows(hidden, queries.inverse, queries.order)

    def pool(self, vectors: Tensor) -> Tensor:
        """Pool one vector per sequence, usually that of the first token: [B, H] -> [B, H]."""
        return torch.tanh(self.pooler(vectors))


class Embeddings(nn.Module):
    """zh: LN(projection(word) + position + type); google: projection(LN(word + position + type))."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.google, self.ops, self.dropout = config.layout == "google", ops, config.hidden_dropout_prob
        embedding, hidden = config.embedding_size, config.hidden_size
        width = embedding if self.google else hidden
        self.word_embeddings = Embedding(config.vocab_size, embedding, ops)
        self.position_embeddings = Embedding(config.max_position_embeddings, width, ops)
        self.token_type_embeddings = Embedding(config.type_vocab_size, width, ops)
        self.layer_norm = LayerNorm(width, config, ops)
        # With embedding_size == hidden_size the zh layout has no projection (nor does albert_pytorch's size table).
        needs_projection = self.google or embedding != hidden
        self.projection = Linear(embedding, hidden, ops, bias=self.google) if needs_projection else None

    def forward(self, batch: Packed) -> Tensor:
        word = self.word_embeddings(batch.input_ids)  # [T, E]
        if not self.google and self.projection is not None:
            word = self.projection(word)  # [T, H]
        norm, dropout = self.layer_norm, batch.dropout(self.dropout, dropout_site("embeddings"))
        hidden = self.ops.embed_layer_norm(
            word, batch.position_ids, batch.token_type_ids, self.position_embeddings.weight,
            self.token_type_embeddings.weight, norm.weight, norm.bias, norm.epsilon, *dropout,
        )  # fmt: skip
        return hidden if self.projection is None or not self.google else self.projection(hidden)  # [T, H]


class Encoder(nn.Module):
    """L x inner_group_num layers over the distinct parameter sets given by share_type and the layer groups."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.pre_ln, self.inner_group_num = config.ln_type == "preln", config.inner_group_num
        self.recompute = "none"  # what backward recomputes to save memory: none, ffn or layer
        attention = [Attention(config, ops) for _ in range(config.num_attention_sets)]
        feed_forward = [FeedForward(config, ops) for _ in range(config.num_feed_forward_sets)]
        self.attention, self.feed_forward = nn.ModuleList(attention), nn.ModuleList(feed_forward)
        final = self.pre_ln and config.final_layer_norm
        self.layer_norm = LayerNorm(config.hidden_size, config, ops) if final else None
        places = [(layer, inner) for layer in range(config.num_hidden_layers) for inner in range(self.inner_group_num)]
        first = [attention[config.set_index(len(attention), *place)] for place in places]
        second = [feed_forward[config.set_index(len(feed_forward), *place)] for place in places]
        following = [*(part.layer_norm for part in first[1:]), self.layer_norm]
        # A plain list: the parameters are registered above, once, under their checkpoint names.
        self.layers = [Layer(*parts) for parts in zip(range(len(places)), first, second, following, strict=True)]

    def forward(
        self, hidden: Tensor, batch: Packed, queries: Queries | None = None, states: list[Tensor] | None = None
    ) -> Tensor:
        """[T, H] -> [T, H], or [R, H] for `queries`; `states` receives the embeddings and each layer's output."""
        x, residual = (self.layers[0].attention.layer_norm(hidden) if self.pre_ln else hidden), hidden
        for layer in self.layers:
            if states is not None and layer.depth % self.inner_group_num == 0:
                states.append(residual)
            x, residual = layer(x, residual, batch, queries if layer is self.layers[-1] else None, self.recompute)
        if states is not None:
            states.append(residual)
        return x


class Layer(nn.Module):
    """Transformer layer number `depth` (from 0): attention and feed-forward, possibly with shared parameters.

    post-LN: a = LN1(x + attention(x)), y = LN2(a + ffn(a)). pre-LN: a = x + attention(LN1(x)), y = a + ffn(LN2(a)).
    A residual add and the LayerNorm after it are one op, so the LN1 of pre-LN runs at the end of the previous layer.
    """

    def __init__(self, depth: int, attention: Attention, feed_forward: FeedForward, following: LayerNorm | None):
        super().__init__()
        self.depth, self.attention, self.feed_forward = depth, attention, feed_forward
        self.post_ln, self.following = attention.layer_norm.post_ln, following

    def forward(
        self, x: Tensor, residual: Tensor, batch: Packed, queries: Queries | None = None, recompute: str = "none"
    ) -> tuple[Tensor, Tensor]:
        """(x, residual), both [T, H] -> the same pair for the next layer.

        x is the input of attention, and `residual` is what the output of attention is added to. In post-LN both are the
        layer's input; in pre-LN x = LN1(residual). With `queries` the results are [R, H]: only those tokens are needed.
        """
        if recompute == "layer":
            return recomputed(self, x, residual, batch, queries)
        attention, feed_forward = self.attention, self.feed_forward
        attended = attention(x, batch, queries)
        residual = residual if queries is None else attention.ops.gather_rows(residual, queries.tokens, queries.places)
        after = attention.layer_norm if self.post_ln else feed_forward.layer_norm
        dropout = batch.dropout(after.dropout, dropout_site("attention", self.depth))
        x, residual = after.add(attended, attention.output.bias, residual, dropout)

        fed = recomputed(feed_forward, x) if recompute == "ffn" else feed_forward(x)
        last = feed_forward.layer_norm if self.post_ln else self.following
        dropout = batch.dropout(feed_forward.layer_norm.dropout, dropout_site("feed_forward", self.depth))
        if last is None:
            total = attention.ops.add_residual(fed, feed_forward.output.bias, residual, *dropout)
            return total, total
        return last.add(fed, feed_forward.output.bias, residual, dropout)


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """Activation checkpointing: function(*arguments), recomputed in backward instead of saved."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


class Attention(nn.Module):
    """Self-attention. The output bias is added by the LayerNorm that follows; that LayerNorm is stored here."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.heads, self.ops = config.num_attention_heads, ops
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size, ops)
        self.output = Linear(config.hidden_size, config.hidden_size, ops)
        self.layer_norm = LayerNorm(config.hidden_size, config, ops)

    def forward(self, x: Tensor, batch: Packed, queries: Queries | None = None) -> Tensor:
        if queries is None:
            qkv, bias = self._qkv(x)  # [T, 3, N, D]
            context = self.ops.varlen_attention(qkv, batch.cu_seqlens, batch.max_seqlen, bias=bias)  # [T, N, D]
        else:
            hidden = x.shape[-1]
            q = self.ops.gather_rows(x, queries.tokens, queries.places)  # [R, H]
            q = self.query_key_value(q, slice(hidden)).unflatten(-1, (self.heads, -1))  # [R, N, D]
            kv, bias = self._qkv(x, slice(hidden, None))  # [T, 2, N, D]
            context = self.ops.varlen_attention(kv, batch.cu_seqlens, batch.max_seqlen, q, queries.cu_seqlens, bias)
        return self.ops.linear(context.flatten(-2), self.output.weight)  # [T or R, H]

    def _qkv(self, x: Tensor, outputs: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Query-key-value projections [T, K, N, D] and their bias, whose gradient attention's backward computes."""
        weight, bias = (take_rows(p, outputs) for p in (self.query_key_value.weight, self.query_key_value.bias))
        made = self.ops.linear(x, weight, bias.detach())
        return made.view(len(x), -1, self.heads, x.shape[-1] // self.heads), bias


class FeedForward(nn.Module):
    """activation(x W1 + b1) W2. The second bias is added by the LayerNorm that follows; that one is stored here."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.activation, self.ops = config.hidden_act, ops
        self.intermediate = Linear(config.hidden_size, config.intermediate_size, ops)
        self.output = Linear(config.intermediate_size, config.hidden_size, ops)
        self.layer_norm = LayerNorm(config.hidden_size, config, ops)

    def forward(self, x: Tensor) -> Tensor:
        w1, w2 = self.intermediate, self.output
        return self.ops.gelu_ffn(x, w1.weight, w1.bias, w2.weight, self.activation)  # [T, H]
