"""The feed-forward layer, the transform of the masked-word head, and their activation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from albert_fast.ops.norms import layer_norm
from albert_fast.ops.products import linear


def gelu(x: Tensor, activation: str = "gelu") -> Tensor:
    """GELU (Hendrycks and Gimpel 2016): `gelu` by erf, `gelu_new` by its tanh form."""
    return F.gelu(x, approximate="tanh" if activation == "gelu_new" else "none")


def gelu_ffn(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, activation: str = "gelu") -> Tensor:
    """gelu(x [T, H] @ weight1 [F, H].T + bias1 [F]) @ weight2 [H, F].T -> [T, H]; its bias is the next op's."""
    return linear(gelu(linear(x, weight1, bias1), activation), weight2)


def linear_gelu_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    layer_norm_weight: Tensor,
    layer_norm_bias: Tensor,
    activation: str = "gelu",
    epsilon: float = 1e-12,
) -> Tensor:
    """LN(gelu(x [P, H] @ weight [M, H].T + bias [M])) -> [P, M]: the transform of the masked-word head."""
    return layer_norm(gelu(linear(x, weight, bias), activation), layer_norm_weight, layer_norm_bias, epsilon)
