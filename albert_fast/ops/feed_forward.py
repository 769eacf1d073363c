"""The feed-forward layer and its activation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from albert_fast.ops.products import linear


def gelu(x: Tensor, activation: str = "gelu") -> Tensor:
    """GELU (Hendrycks and Gimpel 2016): `gelu` by erf, `gelu_new` by its tanh form."""
    return F.gelu(x, approximate="tanh" if activation == "gelu_new" else "none")


def gelu_ffn(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, activation: str = "gelu") -> Tensor:
    """gelu(x [T, H] @ weight1 [F, H].T + bias1 [F]) @ weight2 [H, F].T -> [T, H]; its bias is the next op's."""
    return linear(gelu(linear(x, weight1, bias1), activation), weight2)
