"""Every fused op once in plain PyTorch: the reference that tests trust, and what runs where no kernel does.

Arithmetic is fp32 (or fp64) inside, whatever the storage dtype. One rule for gradients of parameters, Megatron's: where
a parameter has `main_grad` (its own shape, fp32 or wider) backward accumulates into it in that precision and returns
None; elsewhere it returns an ordinary gradient. So the L uses of a shared weight never meet in bf16.

Dimension letters: T tokens (packed), H hidden, F feed-forward, V vocabulary, E embedding, P predictions, N heads,
D head size, B sequences.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from albert_fast.attention import varlen_attention
from albert_fast.ops.cross_entropy import linear_cross_entropy, logit_rows
from albert_fast.ops.feed_forward import gelu, gelu_ffn
from albert_fast.ops.norms import add_layer_norm, add_pre_layer_norm, add_residual, layer_norm
from albert_fast.ops.philox import dropout, dropout_keep, dropout_threshold
from albert_fast.ops.products import embedding, linear, product, rows_of, wide, wide_parameter
from albert_fast.options import UserError

__all__ = [
    "Ops",
    "add_layer_norm",
    "add_pre_layer_norm",
    "add_residual",
    "dropout",
    "dropout_keep",
    "dropout_threshold",
    "embedding",
    "gelu",
    "gelu_ffn",
    "get_ops",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "logit_rows",
    "product",
    "rows_of",
    "varlen_attention",
    "wide",
    "wide_parameter",
]


@dataclass(frozen=True)
class Ops:
    """The implementations a model runs on; every field has the signature of its namesake above."""

    name: str = "torch"
    linear: Callable = linear
    embedding: Callable = embedding
    dropout: Callable = dropout
    layer_norm: Callable = layer_norm
    add_residual: Callable = add_residual
    add_layer_norm: Callable = add_layer_norm
    add_pre_layer_norm: Callable = add_pre_layer_norm
    gelu: Callable = gelu
    gelu_ffn: Callable = gelu_ffn
    linear_cross_entropy: Callable = linear_cross_entropy
    varlen_attention: Callable = varlen_attention


def _triton_ops() -> Ops:
    """The ops that have kernels, on them. Imported here, so that the others do not need Triton."""
    if not torch.cuda.is_available():
        if "triton" not in sys.modules and "TRITON_INTERPRET" not in os.environ:  # read once, at Triton's import
            os.environ["TRITON_INTERPRET"] = "1"
            warnings.warn("no GPU: Triton kernels are interpreted, slowly, with bf16 truncated", stacklevel=3)
        import triton

        if not triton.knobs.runtime.interpret:
            raise UserError("ops='triton' finds no GPU; use ops='torch', or set TRITON_INTERPRET=1 to interpret it")
    from albert_fast.kernels.add_layer_norm import add_layer_norm, add_pre_layer_norm
    from albert_fast.kernels.gelu_ffn import gelu_ffn

    return Ops("triton", add_layer_norm=add_layer_norm, add_pre_layer_norm=add_pre_layer_norm, gelu_ffn=gelu_ffn)


def get_ops(name: str = "auto") -> Ops:
    """The ops called `name`: torch, triton, or auto (triton where there is CUDA, torch elsewhere)."""
    if name == "auto":
        name = "triton" if torch.cuda.is_available() else "torch"
    if name == "torch":
        return Ops()
    if name == "triton":
        return _triton_ops()
    raise UserError(f"ops={name!r} is unknown; use torch, triton or auto")
