"""Modules with weights, each calling one op, and their initialisation."""

from typing import Any

import torch
from torch import Tensor, nn

from albert_fast.config import AlbertConfig
from albert_fast.ops import Ops, take_rows
from albert_fast.packed import Dropout


class Linear(nn.Module):
    """x @ weight.T + bias with weight [out, in]; `outputs` selects a slice of the output features."""

    def __init__(self, in_features: int, out_features: int, ops: Ops, bias: bool = True):
        super().__init__()
        self.ops = ops
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias: Any = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor, outputs: slice | None = None) -> Tensor:
        if outputs is None:
            return self.ops.linear(x, self.weight, self.bias)
        return self.ops.linear(x, take_rows(self.weight, outputs), take_rows(self.bias, outputs))


class Embedding(nn.Module):
    """Rows of weight [count, width] at ids."""

    def __init__(self, count: int, width: int, ops: Ops):
        super().__init__()
        self.ops = ops
        self.weight = nn.Parameter(torch.empty(count, width))

    def forward(self, ids: Tensor) -> Tensor:
        return self.ops.embedding(ids, self.weight)


class LayerNorm(nn.Module):
    """LayerNorm, alone or fused with the preceding bias, dropout and residual add."""

    def __init__(self, width: int, config: AlbertConfig, ops: Ops):
        super().__init__()
        self.ops, self.post_ln = ops, config.ln_type == "postln"
        self.epsilon, self.dropout = config.layer_norm_eps, config.hidden_dropout_prob
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.layer_norm(x, self.weight, self.bias, self.epsilon)

    def add(self, x: Tensor, bias: Tensor, residual: Tensor, dropout: Dropout) -> tuple[Tensor, Tensor]:
        """LN(s) with s = residual + dropout(x + bias), and the next residual: LN(s) in post-LN, s in pre-LN."""
        op = self.ops.add_post_layer_norm if self.post_ln else self.ops.add_pre_layer_norm
        return op(x, bias, residual, self.weight, self.bias, self.epsilon, *dropout)


def initialize(model: nn.Module, std: float) -> None:
    """Initialise like google-research/albert: matrices truncated normal (at 2 std), biases 0, LayerNorm weights 1."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
