"""LayerNorm, alone or after a residual add."""

import torch.nn.functional as F
from torch import Tensor

from albert_fast.ops.philox import dropout as apply_dropout
from albert_fast.ops.products import cast, upcast, upcast_parameter


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-12) -> Tensor:
    """LayerNorm (Ba et al. 2016) over the last axis of x [..., H], statistics in fp32."""
    y = F.layer_norm(upcast(x), weight.shape, upcast_parameter(weight), upcast_parameter(bias), epsilon)
    return cast(y, x.dtype)


def add_pre_layer_norm(
    x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, layer_norm_bias: Tensor, epsilon: float = 1e-12,
    dropout: float = 0.0, key: Tensor | None = None, site: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Pre-LN residual add + LayerNorm: s = residual + dropout(x + bias), y = LN(s); returns (y, s), both [..., H].

    The statistics are computed from s as stored. `bias` [H] belongs to the product that computed x.
    """
    total = add_residual(x, bias, residual, dropout, key, site)
    return layer_norm(total, weight, layer_norm_bias, epsilon), total


def add_post_layer_norm(
    x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, layer_norm_bias: Tensor, epsilon: float = 1e-12,
    dropout: float = 0.0, key: Tensor | None = None, site: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Post-LN residual add + LayerNorm: y = LN(residual + dropout(x + bias)); returns (y, y), both [..., H].

    y is returned twice, for the next branch and the residual, so that a kernel's backward gets the two gradients apart.
    """
    y = add_layer_norm(x, bias, residual, weight, layer_norm_bias, epsilon, dropout, key, site)
    return y, y


def add_layer_norm(
    x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, layer_norm_bias: Tensor, epsilon: float = 1e-12,
    dropout: float = 0.0, key: Tensor | None = None, site: int = 0,
) -> Tensor:  # fmt: skip
    """LN(residual + dropout(x + bias)) -> [..., H]; see `add_pre_layer_norm`."""
    return add_pre_layer_norm(x, bias, residual, weight, layer_norm_bias, epsilon, dropout, key, site)[0]


def add_residual(
    x: Tensor, bias: Tensor, residual: Tensor, probability: float = 0.0, key: Tensor | None = None, site: int = 0
) -> Tensor:
    """residual + dropout(x + bias) -> [..., H], rounded once."""
    total = apply_dropout(upcast(x) + upcast_parameter(bias), probability, key, site)
    return cast(total.add_(upcast(residual)), x.dtype)
