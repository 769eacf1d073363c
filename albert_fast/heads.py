"""The two pretraining heads: masked LM and sentence order. Dimension letters as in model.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from albert_fast.config import AlbertConfig
from albert_fast.modules import LayerNorm, Linear
from albert_fast.ops import Ops, upcast, upcast_parameter

if TYPE_CHECKING:
    from albert_fast.model import Embeddings


class MaskedLmHead(nn.Module):
    """Transform, activation and LayerNorm, then a decoder tied to the embedding matrices, with a bias per token."""

    def __init__(self, config: AlbertConfig, ops: Ops):
        super().__init__()
        width = config.embedding_size if config.layout == "google" else config.hidden_size
        self.activation, self.ops = config.hidden_act, ops
        self.transform = Linear(config.hidden_size, width, ops)
        self.layer_norm = LayerNorm(width, config, ops)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.real_vocab_size = config.real_vocab_size

    def decoder_bias(self) -> Tensor:
        """Bias [V], -inf for ids that only pad the vocabulary: they get no probability and add nothing to the loss."""
        if self.real_vocab_size is None:
            return self.bias
        padding = torch.arange(len(self.bias), device=self.bias.device) >= self.real_vocab_size
        return upcast_parameter(self.bias).masked_fill(padding, -torch.inf).to(self.bias.dtype)

    def features(self, hidden: Tensor, embeddings: Embeddings) -> Tensor:
        """Input of the decoder: [P, H] -> [P, E]."""
        transform, norm = self.transform, self.layer_norm
        x = self.ops.linear_gelu_layer_norm(
            hidden, transform.weight, transform.bias, norm.weight, norm.bias, self.activation, norm.epsilon
        )  # [P, H or E]
        if not embeddings.google and embeddings.projection is not None:
            x = self.ops.linear(x, embeddings.projection.weight, transposed=True)  # [P, E]
        return x

    def logits(self, hidden: Tensor, embeddings: Embeddings) -> Tensor:
        """[P, H] -> [P, V]."""
        return self.ops.linear(
            self.features(hidden, embeddings), embeddings.word_embeddings.weight, self.decoder_bias()
        )

    def loss(self, hidden: Tensor, ids: Tensor, weights: Tensor, embeddings: Embeddings) -> tuple[Tensor, Tensor]:
        """Cross entropy and accuracy over the vocabulary, weighted means by weights [P]; [P, V] is never kept."""
        word = embeddings.word_embeddings.weight
        return self.ops.linear_cross_entropy(self.features(hidden, embeddings), word, self.decoder_bias(), ids, weights)


class SentenceOrderHead(Linear):
    """Classifies from the pooled vector whether the two segments are swapped."""

    def loss(self, pooled: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy and accuracy of pooled [B, H] against labels [B], weighted means by weights [B]."""
        logits = self(pooled)  # [B, 2]
        weights = weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
        log_probabilities = upcast(logits).log_softmax(-1).gather(1, labels.long()[:, None])[:, 0]
        accuracy = ((logits.detach().argmax(1) == labels) * weights).sum()
        return -(log_probabilities * weights).sum(), accuracy
