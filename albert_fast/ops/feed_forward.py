"""The feed-forward layer, the transform of the masked-LM head, and their activation."""

import torch.nn.functional as F
from torch import Tensor

from albert_fast.ops.norms import layer_norm
from albert_fast.ops.products import linear
from albert_fast.options import UserError


def activate(x: Tensor, activation: str = "gelu") -> Tensor:
    """GELU (Hendrycks and Gimpel 2016), `gelu` by erf or `gelu_new` by its tanh form, or `relu`."""
    if activation == "relu":
        return F.relu(x)
    if activation not in ("gelu", "gelu_new"):
        raise UserError(f"activation={activation!r} is unknown; use gelu, gelu_new or relu")
    return F.gelu(x, approximate="tanh" if activation == "gelu_new" else "none")


def gelu_ffn(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, activation: str = "gelu") -> Tensor:
    """activation(x [..., H] @ weight1 [F, H].T + bias1 [F]) @ weight2 [H, F].T -> [..., H]; the next op adds bias2."""
    return linear(activate(linear(x, weight1, bias1), activation), weight2)


def linear_gelu_layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, layer_norm_weight: Tensor, layer_norm_bias: Tensor,
    activation: str = "gelu", epsilon: float = 1e-12,
) -> Tensor:  # fmt: skip
    """LN(activation(x [..., H] @ weight [M, H].T + bias [M])) -> [..., M]: the transform of the masked-LM head."""
    return layer_norm(activate(linear(x, weight, bias), activation), layer_norm_weight, layer_norm_bias, epsilon)
