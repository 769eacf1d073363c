"""ALBERT (Lan et al. 2019, https://arxiv.org/abs/1909.11942) on packed tokens, in plain PyTorch.

Post-LN and pre-LN as in Xiong et al. 2020 (https://arxiv.org/abs/2002.04745). `share_type` says which weights the L
layers share, `layout` how embeddings are built (see AlbertConfig). The two losses are in heads.py; modules.py has what
holds the weights.

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
    """What AlbertForPreTraining returns for padded input, under HuggingFace's names.

    last_hidden_state [B, S, H], zero at padding; pooler_output [B, H]; prediction_logits [B, P, V], or [B, S, V] where
    no positions were given; sop_logits [B, 2]; hidden_states: L+1 of [B, S, H] (embeddings first) where asked for.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    prediction_logits: Tensor
    sop_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class PretrainingLosses:
    """Scalars of one micro-batch, fp32: the two losses (means over their weights), and the accuracies behind them."""

    mlm_loss: Tensor
    sop_loss: Tensor
    mlm_accuracy: Tensor
    sop_accuracy: Tensor

    @property
    def loss(self) -> Tensor:
        return self.mlm_loss + self.sop_loss


class AlbertForPreTraining(PretrainedModel):
    """ALBERT with the masked-word and sentence-order heads."""

    def __init__(self, config: AlbertConfig, ops: str | Ops = "torch"):
        super().__init__(config, ops)
        self.albert = Albert(config, self.ops)
        self.mlm_head = MaskedLmHead(config, self.ops)
        self.sop_head = SentenceOrderHead(config.hidden_size, 2, self.ops)
        initialize(self, config.initializer_range)

    def losses(self, batch: PretrainingBatch | Batch) -> PretrainingLosses:
        """The losses of a packed micro-batch: static shapes, no synchronisation.

        The loader's Batch is brought to the model's device first; in train mode its dropout follows torch's seed.
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
        """Padded input for those who have it: input_ids, attention_mask (1 real), token_type_ids int [B, S].

        masked_lm_positions [B, P] are columns of S. Padding, on either side, is taken out first: it costs nothing. A
        token's position is its column; the pooler reads the first real token.
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
    """Embeddings, the encoder whose layers share weights, and the pooler."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.ops = ops
        self.embeddings = Embeddings(config, ops)
        self.encoder = Encoder(config, ops)
        self.pooler = Linear(config.hidden_size, config.hidden_size, ops)

    def forward(self, batch: Packed, positions: Tensor | None = None, states: list[Tensor] | None = None) -> Tensor:
        """Hidden states [T, H], or [R, H] of some positions alone, for which the last layer does less.

        Args:
            positions: int [R], indices into T in any order, at most max_seqlen of one sequence; T stands for no token,
                whose state means nothing.
            states: takes the L+1 hidden states [T, H], the embeddings first.
        """
        queries = None if positions is None else Queries.pack(positions, batch.cu_seqlens, len(batch.input_ids))
        hidden = self.encoder(self.embeddings(batch), batch, queries, states)
        return hidden if queries is None else permute_rows(hidden, queries.inverse, queries.order)

    def pool(self, vectors: Tensor) -> Tensor:
        """The pooler over one vector a sequence, the first token's as a rule: [B, H] -> [B, H]."""
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
        # Without a factorisation the zh layout has no projection (the seed's size table counts none).
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
    """L x inner_group_num layers over the parameter sets that share_type and the groups leave distinct."""

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
        # A plain list: its parameters are registered above, once, under the names that checkpoints know.
        self.layers = [Layer(*parts) for parts in zip(range(len(places)), first, second, following, strict=True)]

    def forward(
        self, hidden: Tensor, batch: Packed, queries: Queries | None = None, states: list[Tensor] | None = None
    ) -> Tensor:
        """[T, H] -> [T, H], or [R, H] of the queries alone; `states` takes the embeddings and each layer's output."""
        x, residual = (self.layers[0].attention.layer_norm(hidden) if self.pre_ln else hidden), hidden
        for layer in self.layers:
            if states is not None and layer.depth % self.inner_group_num == 0:
                states.append(residual)
            x, residual = layer(x, residual, batch, queries if layer is self.layers[-1] else None, self.recompute)
        if states is not None:
            states.append(residual)
        return x


class Layer(nn.Module):
    """The layer at `depth`, from 0: an attention and a feed-forward layer, whose parameters other layers may share.

    post-LN: a = LN1(x + attention(x)), y = LN2(a + ffn(a)). pre-LN: a = x + attention(LN1(x)), y = a + ffn(LN2(a)).
    A residual add and the LayerNorm that reads it are one op, so pre-LN's LN1 runs at the end of the layer before.
    """

    def __init__(self, depth: int, attention: Attention, feed_forward: FeedForward, following: LayerNorm | None):
        super().__init__()
        self.depth, self.attention, self.feed_forward = depth, attention, feed_forward
        self.post_ln, self.following = attention.layer_norm.post_ln, following

    def forward(
        self, x: Tensor, residual: Tensor, batch: Packed, queries: Queries | None = None, recompute: str = "none"
    ) -> tuple[Tensor, Tensor]:
        """What attention reads [T, H] and what its output is added to [T, H] -> the same two of the next layer.

        In post-LN both are the layer's input; in pre-LN `residual` is, and x is LN1 of it. With queries both results
        are [R, H], of their tokens alone: no token needs another's state from there on.
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
    """function(*arguments), which backward runs once more instead of keeping what it made."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


class Attention(nn.Module):
    """Self-attention without the last bias, which the LayerNorm that follows adds; its LayerNorm lives with it."""

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
        """Queries, keys and values [T, K, N, D] and the bias in them, whose gradient attention's backward makes."""
        weight, bias = (take_rows(p, outputs) for p in (self.query_key_value.weight, self.query_key_value.bias))
        made = self.ops.linear(x, weight, bias.detach())
        return made.view(len(x), -1, self.heads, x.shape[-1] // self.heads), bias


class FeedForward(nn.Module):
    """activation(x W1 + b1) W2, its last bias left to the LayerNorm that follows; its LayerNorm lives with it."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.activation, self.ops = config.hidden_act, ops
        self.intermediate = Linear(config.hidden_size, config.intermediate_size, ops)
        self.output = Linear(config.intermediate_size, config.hidden_size, ops)
        self.layer_norm = LayerNorm(config.hidden_size, config, ops)

    def forward(self, x: Tensor) -> Tensor:
        w1, w2 = self.intermediate, self.output
        return self.ops.gelu_ffn(x, w1.weight, w1.bias, w2.weight, self.activation)  # [T, H]
