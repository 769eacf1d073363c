"""Plain PyTorch versions of all fused ops: the reference for tests, and the implementation without a GPU.

They compute in fp32 (or fp64) for any storage dtype. Gradients of parameters follow Megatron-LM's main_grad rule: if a
parameter has an attribute `main_grad` (same shape, fp32 or wider), backward accumulates into it in that precision and
returns None; otherwise it returns an ordinary gradient. So the L uses of a shared weight are never summed in bf16.

Dimension letters: T tokens (packed), H hidden, F feed-forward, V vocabulary, E embedding, P predictions, N heads,
D head size, B sequences.
"""

import os
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from albert_fast.attention import varlen_attention
from albert_fast.ops.attention import plain_attention
from albert_fast.ops.cross_entropy import linear_cross_entropy, logit_rows
from albert_fast.ops.embeddings import embed_layer_norm
from albert_fast.ops.feed_forward import activate, gelu_ffn, linear_gelu_layer_norm
from albert_fast.ops.norms import add_layer_norm, add_post_layer_norm, add_pre_layer_norm, add_residual, layer_norm
from albert_fast.ops.philox import dropout, dropout_keep, dropout_site
from albert_fast.ops.products import embedding, gather_rows, linear, permute_rows, take_rows, upcast, upcast_parameter
from albert_fast.options import UserError

__all__ = [
    "Ops", "activate", "add_layer_norm", "add_post_layer_norm", "add_pre_layer_norm", "add_residual", "dropout",
    "dropout_keep", "dropout_site", "embed_layer_norm", "embedding", "gather_rows", "gelu_ffn", "get_ops", "kernel_ops",
    "layer_norm", "linear", "linear_cross_entropy", "linear_gelu_layer_norm", "logit_rows", "permute_rows",
    "plain_attention", "take_rows", "upcast", "upcast_parameter", "varlen_attention",
]  # fmt: skip


class Ops:
    """The implementations that a model calls: the plain ops above, with any of them replaced by name.

    A replacement has the signature and results of the op that it replaces.
    """

    linear = staticmethod(linear)
    embedding = staticmethod(embedding)
    gather_rows = staticmethod(gather_rows)
    embed_layer_norm = staticmethod(embed_layer_norm)
    dropout = staticmethod(dropout)
    layer_norm = staticmethod(layer_norm)
    add_residual = staticmethod(add_residual)
    add_post_layer_norm = staticmethod(add_post_layer_norm)
    add_pre_layer_norm = staticmethod(add_pre_layer_norm)
    linear_gelu_layer_norm = staticmethod(linear_gelu_layer_norm)
    gelu_ffn = staticmethod(gelu_ffn)
    linear_cross_entropy = staticmethod(linear_cross_entropy)
    varlen_attention = staticmethod(varlen_attention)

    @staticmethod
    def fuses_update(grad: Tensor) -> bool:
        """Whether kernels compute the optimizer update from the flat gradient."""
        return False

    def __init__(self, name: str = "torch", **implementations: Callable):
        self.name = name
        for op, implementation in implementations.items():
            if op not in self.names():
                raise UserError(f"op {op!r} is unknown; use {', '.join(self.names())}")
            setattr(self, op, implementation)

    @classmethod
    def names(cls) -> list[str]:
        """Names of all ops."""
        return [name for name, value in vars(cls).items() if isinstance(value, staticmethod)]


def _check_interpreter() -> None:
    """Without a GPU, make Triton interpret kernels; it must be told before it is imported."""
    if torch.cuda.is_available():
        return
    if "triton" not in sys.modules and "TRITON_INTERPRET" not in os.environ:  # Triton reads it once, at import
        os.environ["TRITON_INTERPRET"] = "1"
        warnings.warn("no GPU: Triton kernels run in its interpreter, which is slow and truncates bf16", stacklevel=3)
    import triton

    if not triton.knobs.runtime.interpret:
        raise UserError("ops='triton' needs a GPU; use ops='torch', or set TRITON_INTERPRET=1 to interpret the kernels")


def kernel_ops() -> Ops:
    """Ops that use our kernels where they exist; also valid on the meta device, where nothing runs.

    The kernels are imported here so that the plain ops do not need Triton.
    """
    from albert_fast.kernels.add_layer_norm import add_post_layer_norm, add_pre_layer_norm
    from albert_fast.kernels.embed_layer_norm import embed_layer_norm
    from albert_fast.kernels.gather_rows import gather_rows
    from albert_fast.kernels.gelu_ffn import gelu_ffn
    from albert_fast.kernels.gelu_layer_norm import linear_gelu_layer_norm
    from albert_fast.kernels.linear_cross_entropy import linear_cross_entropy

    kernels = (embed_layer_norm, add_post_layer_norm, add_pre_layer_norm, gather_rows, gelu_ffn, linear_gelu_layer_norm,
               linear_cross_entropy)  # fmt: skip
    return Ops("triton", **{kernel.__name__: kernel for kernel in kernels}, fuses_update=lambda grad: True)


def _by_device(kernel: Callable, plain: Callable) -> Callable:
    """`kernel` for CUDA tensors, `plain` for others: the device of the tensors decides, not that of the machine."""
    if kernel is plain:
        return plain
    return lambda x, *arguments, **keywords: (kernel if x.is_cuda else plain)(x, *arguments, **keywords)


def get_ops(name: str = "auto") -> Ops:
    """The ops named torch, triton, or auto (triton for CUDA tensors, torch for others)."""
    if name == "torch" or (name == "auto" and not torch.cuda.is_available()):
        return Ops()
    if name == "triton":
        _check_interpreter()
        return kernel_ops()
    if name == "auto":
        plain, kernels = Ops(), kernel_ops()
        return Ops("auto", **{n: _by_device(getattr(kernels, n), getattr(plain, n)) for n in Ops.names()})
    raise UserError(f"ops={name!r} is unknown; use torch, triton or auto")
