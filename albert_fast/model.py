"""ALBERT (Lan et al. 2019, https://arxiv.org/abs/1909.11942) on packed tokens, in plain PyTorch.

Post-LN and pre-LN as in Xiong et al. 2020 (https://arxiv.org/abs/2002.04745). The same few layers are used again and
again: `share_type` says which weights the L layers share, `layout` how embeddings are built (see AlbertConfig).

Dimension letters: T tokens (packed), B sequences, S sequence length, P masked positions, L layers, H hidden,
E embedding, F feed-forward, N heads, D head size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from albert_fast.attention import Queries
from albert_fast.config import AlbertConfig
from albert_fast.ops import Ops, get_ops, rows_of, wide
from albert_fast.packed import Packed, pack
from albert_fast.pretrained import FolderModel


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


class Pretrained(FolderModel):
    """An ALBERT, to which heads are added, that can be saved to a folder and loaded from one."""

    def __init__(self, config: AlbertConfig, ops: str | Ops = "torch"):
        super().__init__()
        self.config = config
        self.ops = ops if isinstance(ops, Ops) else get_ops(ops)
        self.albert = Albert(config, self.ops)


class AlbertForPreTraining(Pretrained):
    """ALBERT with the masked-word and sentence-order heads."""

    def __init__(self, config: AlbertConfig, ops: str | Ops = "torch"):
        super().__init__(config, ops)
        self.mlm_head = MaskedLmHead(config, self.ops)
        self.sop_head = Linear(config.hidden_size, 2, self.ops)
        initialize(self, config.initializer_range)

    def losses(self, batch: Packed, masked_lm: tuple[Tensor, ...], sentence_order: tuple[Tensor, ...]):
        """PretrainingLosses of a packed batch: the training path, static shapes and no synchronisation.

        masked_lm: positions [P] into T, ids [P], weights [P]; sentence_order: labels and weights [M] of the first M
        sequences.
        """
        positions, ids, weights = masked_lm
        states = self.albert(batch, rows=batch.read_tokens(len(sentence_order[0]), positions, weights))
        first_states, masked_states = states.tensor_split([len(states) - len(positions)])
        mlm_loss, mlm_accuracy = self.mlm_head.loss(masked_states, ids, weights, self.albert.embeddings)
        labels, weights = sentence_order
        logits = self.sop_head(self.albert.pool(first_states))
        weights = weights / torch.where(weights.sum() > 0, weights.sum(), 1.0)
        log_probabilities = wide(logits).log_softmax(-1).gather(1, labels.long()[:, None])[:, 0]
        sop_loss = -(log_probabilities * weights).sum()
        sop_accuracy = ((logits.detach().argmax(1) == labels) * weights).sum()
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
        last = unpack(self.albert(packed, states))  # [B, S, H]
        first = 0 if attention_mask is None else (attention_mask > 0).int().argmax(1)
        pooled = self.albert.pool(last[torch.arange(len(last), device=last.device), first])  # [B, H]
        rows = (
            last
            if masked_lm_positions is None
            else last.gather(1, masked_lm_positions.long()[..., None].expand(-1, -1, last.shape[-1]))
        )  # [B, P, H]
        logits = self.mlm_head.logits(rows.flatten(0, 1), self.albert.embeddings).unflatten(0, rows.shape[:2])
        hidden_states = tuple(unpack(state) for state in states) if states is not None else None
        return PretrainingOutput(last, pooled, logits, self.sop_head(pooled), hidden_states)


class Albert(nn.Module):
    """Embeddings, the encoder whose layers share weights, and the pooler."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.embeddings = Embeddings(config, ops)
        self.encoder = Encoder(config, ops)
        self.pooler = Linear(config.hidden_size, config.hidden_size, ops)

    def forward(self, batch: Packed, states: list[Tensor] | None = None, rows: Tensor | None = None) -> Tensor:
        """Hidden states [T, H], or [R, H] of the tokens `rows` [R] alone, for which the last layer does less.

        T in `rows` stands for no token: its state means nothing. At most max_seqlen rows are of one sequence.
        `states`, where given, takes the L+1 hidden states, the embeddings first.
        """
        return self.encoder(self.embeddings(batch), batch, states, rows)

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
        total = word + self.position_embeddings(batch.position_ids) + self.token_type_embeddings(batch.token_type_ids)
        hidden = self.ops.dropout(self.layer_norm(total), batch.dropout(self.dropout), batch.dropout_key, 0)
        return hidden if self.projection is None or not self.google else self.projection(hidden)  # [T, H]


class Encoder(nn.Module):
    """L layers over the sets of weights that share_type and the groups leave distinct."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.config, self.ops, self.recompute = config, ops, "none"
        self.attention = nn.ModuleList(Attention(config, ops) for _ in range(config.num_attention_sets))
        self.feed_forward = nn.ModuleList(FeedForward(config, ops) for _ in range(config.num_feed_forward_sets))
        final = config.ln_type == "preln" and config.final_layer_norm
        self.layer_norm = LayerNorm(config.hidden_size, config, ops) if final else None

    def layers(self) -> list[tuple[Any, Any]]:
        """The weights that each of the L x inner_group_num layers uses, in order."""
        c, attention, feed_forward = self.config, list(self.attention), list(self.feed_forward)
        return [
            (
                attention[c.set_index(len(attention), layer, inner)],
                feed_forward[c.set_index(len(feed_forward), layer, inner)],
            )
            for layer in range(c.num_hidden_layers)
            for inner in range(c.inner_group_num)
        ]

    def forward(
        self, hidden: Tensor, batch: Packed, states: list[Tensor] | None = None, rows: Tensor | None = None
    ) -> Tensor:
        run = self.post_layer if self.config.ln_type == "postln" else self.pre_layer
        layers = self.layers()
        queries = None if rows is None else Queries.pack(rows, batch.cu_seqlens, len(hidden))
        if states is not None:
            states.append(hidden)
        # In pre-LN a layer ends in the sum that the next layer's LayerNorm reads, so the join of two layers is one op.
        normed = None if self.config.ln_type == "postln" else layers[0][0].layer_norm(hidden)
        for depth, (attention, feed_forward) in enumerate(layers):
            last = depth + 1 == len(layers)
            following = self.layer_norm if last else layers[depth + 1][0].layer_norm
            arguments = (attention, feed_forward, following, depth, batch, hidden, normed, queries if last else None)
            if self.recompute == "layer" and torch.is_grad_enabled():
                hidden, normed = checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden, normed = run(*arguments)
            if states is not None and (depth + 1) % self.config.inner_group_num == 0:
                states.append(hidden)
        hidden = hidden if normed is None else normed
        return hidden if queries is None else self.ops.embedding(queries.places, hidden)

    def post_layer(self, attention, feed_forward, following, depth, batch, x, _, queries=None):
        """a = LN(x + attention(x)); LN(a + ffn(a))."""
        attended, x = self.attend(attention, x, x, batch, queries)
        a = attention.layer_norm.add(attended, attention.output.bias, x, batch, 2 * depth + 1)
        f = self.feed(feed_forward, a)
        return feed_forward.layer_norm.add(f, feed_forward.output.bias, a, batch, 2 * depth + 2), None

    def pre_layer(self, attention, feed_forward, following, depth, batch, x, normed, queries=None):
        """a = x + attention(LN(x)); y = a + ffn(LN(a)), returned with the next layer's LN(y) (None after the last)."""
        attended, x = self.attend(attention, normed, x, batch, queries)
        normed, a = feed_forward.layer_norm.add_pre(attended, attention.output.bias, x, batch, 2 * depth + 1)
        f, bias, site = self.feed(feed_forward, normed), feed_forward.output.bias, 2 * depth + 2
        if following is None:
            dropout = batch.dropout(feed_forward.layer_norm.dropout)
            return self.ops.add_residual(f, bias, a, dropout, batch.dropout_key, site), None
        normed, y = following.add_pre(f, bias, a, batch, site)
        return y, normed

    def attend(self, attention, x, residual, batch, queries):
        """(attention(x), residual), of the queries' tokens alone where given: no token needs another's from here on."""
        attended = attention(x, batch, queries)
        return attended, residual if queries is None else self.ops.embedding(queries.tokens, residual)

    def feed(self, feed_forward: FeedForward, x: Tensor) -> Tensor:
        if self.recompute == "ffn" and torch.is_grad_enabled():
            return checkpoint(feed_forward, x, use_reentrant=False, preserve_rng_state=False)
        return feed_forward(x)


class Attention(nn.Module):
    """Self-attention without the last bias, which the LayerNorm that follows adds; its LayerNorm lives with it."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.heads, self.ops = config.num_attention_heads, ops
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size, ops)
        self.output = Linear(config.hidden_size, config.hidden_size, ops)
        self.layer_norm = LayerNorm(config.hidden_size, config, ops)

    def forward(self, x: Tensor, batch: Packed, queries: Queries | None = None) -> Tensor:
        edges = (batch.cu_seqlens, batch.max_seqlen)
        if queries is None:
            qkv = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))  # [T, 3, N, D]
            context = self.ops.varlen_attention(qkv, *edges)  # [T, N, D]
        else:
            hidden = x.shape[-1]
            asking = self.ops.embedding(queries.tokens, x)  # [R, H]
            q = self.query_key_value(asking, slice(hidden)).unflatten(-1, (self.heads, -1))  # [R, N, D]
            kv = self.query_key_value(x, slice(hidden, None)).unflatten(-1, (2, self.heads, -1))  # [T, 2, N, D]
            context = self.ops.varlen_attention(kv, *edges, q, queries.cu_seqlens)  # [R, N, D]
        return self.ops.linear(context.flatten(-2), self.output.weight)


class FeedForward(nn.Module):
    """gelu(x W1 + b1) W2, its last bias left to the LayerNorm that follows; its LayerNorm lives with it."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.activation, self.ops = config.hidden_act, ops
        self.intermediate = Linear(config.hidden_size, config.intermediate_size, ops)
        self.output = Linear(config.intermediate_size, config.hidden_size, ops)
        self.layer_norm = LayerNorm(config.hidden_size, config, ops)

    def forward(self, x: Tensor) -> Tensor:
        w1, w2 = self.intermediate, self.output
        return self.ops.gelu_ffn(x, w1.weight, w1.bias, w2.weight, self.activation)  # [T, H]


class MaskedLmHead(nn.Module):
    """transform, gelu, LayerNorm, then back through the embeddings' own matrices, with a bias per word."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        width = config.embedding_size if config.layout == "google" else config.hidden_size
        self.activation, self.ops = config.hidden_act, ops
        self.transform = Linear(config.hidden_size, width, ops)
        self.layer_norm = LayerNorm(width, config, ops)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def rows(self, hidden: Tensor, embeddings: Embeddings) -> Tensor:
        """What meets the word embeddings: [P, E]."""
        x = self.layer_norm(self.ops.gelu(self.transform(hidden), self.activation))  # [P, H or E]
        if not embeddings.google and embeddings.projection is not None:
            x = self.ops.linear(x, embeddings.projection.weight, transposed=True)  # [P, E]
        return x

    def logits(self, hidden: Tensor, embeddings: Embeddings) -> Tensor:
        """[P, V]."""
        return self.ops.linear(self.rows(hidden, embeddings), embeddings.word_embeddings.weight, self.bias)

    def loss(self, hidden: Tensor, ids: Tensor, weights: Tensor, embeddings: Embeddings) -> tuple[Tensor, Tensor]:
        """Cross entropy and accuracy over the vocabulary, averaged by weights [P], without keeping [P, V]."""
        word = embeddings.word_embeddings.weight
        return self.ops.linear_cross_entropy(self.rows(hidden, embeddings), word, self.bias, ids, weights)


class Linear(nn.Module):
    """x @ weight.T + bias, weight [out, in]; `outputs`, where given, are the rows of both to take."""

    def __init__(self, in_features: int, out_features: int, ops: Ops, bias: bool = True):
        super().__init__()
        self.ops = ops
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor, outputs: slice | None = None) -> Tensor:
        if outputs is None:
            return self.ops.linear(x, self.weight, self.bias)
        return self.ops.linear(x, rows_of(self.weight, outputs), rows_of(self.bias, outputs))


class Embedding(nn.Module):
    """Rows of weight [rows, width]."""

    def __init__(self, rows: int, width: int, ops: Ops):
        super().__init__()
        self.ops = ops
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        return self.ops.embedding(ids, self.weight)


class LayerNorm(nn.Module):
    """LayerNorm, alone or fused with the bias, dropout and residual sum before it."""

    def __init__(self, width: int, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.ops, self.epsilon, self.dropout = ops, config.layer_norm_eps, config.hidden_dropout_prob
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.layer_norm(x, self.weight, self.bias, self.epsilon)

    def add(self, x: Tensor, bias: Tensor, residual: Tensor, batch: Packed, site: int) -> Tensor:
        """LN(residual + dropout(x + bias))."""
        arguments = (self.weight, self.bias, self.epsilon, batch.dropout(self.dropout), batch.dropout_key, site)
        return self.ops.add_layer_norm(x, bias, residual, *arguments)

    def add_pre(self, x: Tensor, bias: Tensor, residual: Tensor, batch: Packed, site: int) -> tuple[Tensor, Tensor]:
        """(LN(s), s) of the sum s = residual + dropout(x + bias)."""
        arguments = (self.weight, self.bias, self.epsilon, batch.dropout(self.dropout), batch.dropout_key, site)
        return self.ops.add_pre_layer_norm(x, bias, residual, *arguments)


def initialize(model: nn.Module, std: float) -> None:
    """Matrices from a normal truncated at 2 std, as google-research/albert does; biases 0, LayerNorm weights 1."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
