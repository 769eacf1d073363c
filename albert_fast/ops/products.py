"""Products and lookups with weights, with weight gradients under the main_grad rule."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from albert_fast.kernels.main_grad import accumulate_product, placed
from albert_fast.kernels.row_sums import table_gradient


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Dtype for sums over x: fp32, or fp64 if x is fp64."""
    return torch.promote_types(x.dtype, torch.float32)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x.to(dtype), which takes the host 1 µs even if there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def upcast(x: Tensor) -> Tensor:
    """x in the accumulation dtype."""
    return cast(x, accumulation_dtype(x))


class _UpcastParameter(torch.autograd.Function):
    """A parameter cast to fp32, whose fp32 gradient is accumulated into main_grad if it has one."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor) -> Tensor:
        ctx.main_grad, ctx.dtype = getattr(parameter, "main_grad", None), parameter.dtype
        return upcast(parameter).view_as(parameter)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor | None:
        return placed(ctx.main_grad, grad, ctx.dtype)


def upcast_parameter(parameter: Tensor) -> Tensor:
    """`parameter` in the accumulation dtype, differentiable under the main_grad rule; meant for vectors."""
    is_upcast = parameter.dtype == accumulation_dtype(parameter)
    if is_upcast and getattr(parameter, "main_grad", None) is None:
        return parameter  # plain autograd does the same with less overhead
    return _UpcastParameter.apply(parameter)


def take_rows(parameter: Tensor, rows: slice) -> Tensor:
    """A slice of a parameter's rows, differentiable under the main_grad rule."""
    part = parameter[rows]
    if (main_grad := getattr(parameter, "main_grad", None)) is not None:
        part.main_grad = main_grad[rows]  # type: ignore[attr-defined]
    return part


# Evaluated at import because torch.compile cannot trace it.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] @ weight [M, K].T + bias [M] -> [..., M], by oneDNN for fp32 on CPU.

    oneDNN's AVX-512 code runs about 1.1 times as fast as the BLAS behind F.linear on AMD's processors.
    """
    compiling = torch.compiler.is_compiling()  # inductor cannot lower this call, and uses oneDNN itself
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 and _HAS_ONEDNN and not compiling:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.transposed = transposed
        ctx.main_grad = getattr(weight, "main_grad", None)
        ctx.bias_dtype = bias.dtype if bias is not None and bias.requires_grad else None
        ctx.bias_main_grad = getattr(bias, "main_grad", None)
        return product(x, weight.t() if transposed else weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad_weight = grad_bias = None
        rows = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        left, right = rows if ctx.transposed else rows[::-1]
        if ctx.main_grad is not None:
            accumulate_product(ctx.main_grad, left, right)
        elif ctx.needs_input_grad[1]:
            grad_weight = left.t() @ right
        if ctx.bias_dtype is not None:
            total = rows[1].sum(0, dtype=accumulation_dtype(grad))
            grad_bias = placed(ctx.bias_main_grad, total, ctx.bias_dtype)
        grad_x = product(grad, weight if ctx.transposed else weight.t()) if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight, grad_bias, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False) -> Tensor:
    """x [..., K] @ weight [M, K].T + bias [M] -> [..., M], under the main_grad rule; transposed: weight is [K, M]."""
    return _Linear.apply(x, weight, bias, transposed)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids, weight)
        ctx.main_grad = getattr(weight, "main_grad", None)
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None]:
        ids, weight = ctx.saved_tensors
        rows = ids.reshape(-1), grad.reshape(-1, grad.shape[-1])
        return None, table_gradient(ctx.main_grad, *rows, weight)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """weight [V, E] at ids [...] (int32 or int64) -> [..., E], under the main_grad rule; backward is deterministic."""
    return _Embedding.apply(ids, weight)


class _PermuteRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ids: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return F.embedding(ids, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return F.embedding(inverse, grad), None, None


def permute_rows(x: Tensor, ids: Tensor, inverse: Tensor) -> Tensor:
    """x [R, H] permuted by ids [R]; backward applies `inverse`, the inverse permutation."""
    return _PermuteRows.apply(x, ids, inverse)


def gather_rows(x: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    """x [T, H] at tokens int [R], ascending -> [R, H].

    places: like tokens, but T for unused entries, whose gradients must be zero.
    """
    return embedding(tokens, x)
