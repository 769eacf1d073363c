"""Products and lookups with weights, and where the gradients of weights go."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from albert_fast.kernels.main_grad import accumulate_product


def upcast(x: Tensor) -> Tensor:
    """x in the accumulation dtype: fp32, or fp64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


class _UpcastParameter(torch.autograd.Function):
    """A parameter as fp32 whose gradient, fp32 too, goes into main_grad where there is one."""

    @staticmethod
    def forward(ctx, parameter: Tensor) -> Tensor:
        ctx.main_grad, ctx.dtype = getattr(parameter, "main_grad", None), parameter.dtype
        return upcast(parameter).view_as(parameter)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor | None:
        if ctx.main_grad is None:
            return grad.to(ctx.dtype)
        ctx.main_grad.add_(grad)
        return None


def upcast_parameter(parameter: Tensor) -> Tensor:
    """`parameter` in fp32 (fp64 stays), differentiable under the main_grad rule: for vectors, whose sums are cheap."""
    return _UpcastParameter.apply(parameter)


def take_rows(parameter: Tensor, rows: slice) -> Tensor:
    """Some rows of a parameter, differentiable under the main_grad rule."""
    part = parameter[rows]
    if (main_grad := getattr(parameter, "main_grad", None)) is not None:
        part.main_grad = main_grad[rows]  # type: ignore[attr-defined]
    return part


# Asked at import: torch.compile cannot trace the question.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [T, K] @ weight [M, K].T + bias [M] -> [T, M], by oneDNN for fp32 on CPU.

    oneDNN's AVX-512 code runs about 1.1 times as fast as the BLAS behind F.linear on AMD's processors.
    """
    compiling = torch.compiler.is_compiling()  # inductor brings its own oneDNN, and cannot lower this call
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[0] > 0 and _HAS_ONEDNN and not compiling:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.transposed = transposed
        ctx.main_grad, ctx.bias_dtype = getattr(weight, "main_grad", None), None if bias is None else bias.dtype
        ctx.bias_main_grad = getattr(bias, "main_grad", None)
        return product(x, weight.t() if transposed else weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad_weight = grad_bias = None
        left, right = (x, grad) if ctx.transposed else (grad, x)
        if ctx.main_grad is not None:
            accumulate_product(ctx.main_grad, left, right)
        elif ctx.needs_input_grad[1]:
            grad_weight = left.t() @ right
        if ctx.bias_dtype is not None:
            total = upcast(grad).sum(0)
            if ctx.bias_main_grad is not None:
                ctx.bias_main_grad.add_(total)
            else:
                grad_bias = total.to(ctx.bias_dtype)
        grad_x = product(grad, weight if ctx.transposed else weight.t()) if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight, grad_bias, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False) -> Tensor:
    """x [T, K] @ weight [M, K].T + bias [M] -> [T, M], under the main_grad rule; transposed: weight is [K, M]."""
    return _Linear.apply(x, weight, bias, transposed)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.main_grad, ctx.rows, ctx.dtype = getattr(weight, "main_grad", None), weight.shape[0], weight.dtype
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (ids,) = ctx.saved_tensors
        grad, total = upcast(grad), ctx.main_grad
        if grad.is_cuda:
            # It sorts the ids and sums the rows of each in parts, always the same. index_add_ would add with atomics;
            # index_put_ would take the 16,384 rows of one token type one after another.
            rows = torch.ops.aten.embedding_dense_backward(grad.contiguous(), ids, ctx.rows, -1, False)
            total = rows if total is None else total.add_(rows)
        else:
            total = grad.new_zeros(ctx.rows, grad.shape[1]) if total is None else total
            total.index_add_(0, ids, grad)
        return None, total.to(ctx.dtype) if ctx.main_grad is None else None


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """weight [V, E] at ids [T] (int32 or int64) -> [T, E], under the main_grad rule; its backward is deterministic."""
    return _Embedding.apply(ids, weight)
