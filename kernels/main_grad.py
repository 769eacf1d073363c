"""Gradients of shared weights under the main_grad rule, in plain PyTorch, shared by kernels and plain ops.

If a parameter has an attribute `main_grad` (same shape, fp32 or wider), backward accumulates into it and returns None;
otherwise it returns an ordinary gradient. So the L uses of a shared weight are never summed in bf16.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from .candidates import Candidate, Problem, candidates, chosen, problem_of
from .cost import Cost, costs, size_of
from .eager import direct


@cache
def _addmm_takes_out_dtype() -> bool:
    """Whether addmm on CUDA can accumulate bf16 products in an fp32 addend; depends on the version, so test once."""
    ones, total = (torch.ones(16, 16, device="cuda", dtype=d) for d in (torch.bfloat16, torch.float32))
    total += 2**-10  # lost if the addend or the sum is rounded to bf16
    try:
        _by_addmm(total, ones, ones)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 17 + 2**-10).all())


def _by_addmm(total: Tensor, a: Tensor, b: Tensor) -> None:
    torch.addmm(total, a.t(), b, out_dtype=total.dtype, out=total)


def _by_mm(total: Tensor, a: Tensor, b: Tensor) -> None:
    total.add_(torch.mm(a.t(), b, out_dtype=total.dtype))


def accumulate_product_upcast(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`accumulate_product` for devices whose products cannot widen, such as CPUs: the operands are upcast first."""
    total.addmm_(a.t().to(total.dtype), b.to(total.dtype))


@candidates("weight_gradient")
def _candidates(problem: Problem) -> list[Candidate]:
    found = [
        Candidate("addmm", _by_addmm, "one pass over the sum, in the product's epilogue"),
        Candidate("mm and add", _by_mm, "the product alone may use a faster library kernel"),
        Candidate("upcast", accumulate_product_upcast, "correct even if the library's products cannot widen"),
    ]
    return found[1:] if torch.cuda.is_available() and not _addmm_takes_out_dtype() else found


@torch.library.custom_op("albert_fast::accumulate_product", mutates_args=("total",))
def _accumulate_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Opaque because the implementation depends on the device; traces and predictions see one product."""
    if not a.is_cuda:
        accumulate_product_upcast(total, a, b)
    elif a.dtype == total.dtype:
        total.addmm_(a.t(), b)
    else:
        chosen(problem_of("weight_gradient", a, a.shape[0], b.shape[1], a.shape[1])).options(total, a, b)


@_accumulate_product.register_fake
def _(total, a, b):
    return None


@costs("albert_fast::accumulate_product")
def _accumulate_product_costs(total, a, b):
    flops = 2 * a.shape[0] * a.shape[1] * b.shape[1]
    return [Cost("library", size_of(a, b, total, total), flops, kind="product")]


_accumulate = direct(_accumulate_product)


def accumulate_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total [M, K] += a [T, M].T @ b [T, K], in place, with products and sums in total's dtype."""
    _accumulate(total, a, b)


def placed(main_grad: Tensor | None, gradient: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Apply the main_grad rule: add to main_grad and return None, or return the gradient in the parameter's dtype."""
    if main_grad is None:
        return gradient.to(dtype)
    main_grad.add_(gradient)
    return None


def scaled_gradients(ctx: Any, scale: Tensor) -> list[Tensor | None]:
    """The gradients of x, ctx.weight and ctx.bias that a loss computed in forward, times the gradient of the loss."""
    grad_x, *grads = ctx.saved_tensors
    found: list[Tensor | None] = [(grad_x * scale).to(grad_x.dtype)]
    for parameter, grad in zip((ctx.weight, ctx.bias), grads, strict=True):
        if (main_grad := getattr(parameter, "main_grad", None)) is None:
            found.append((grad * scale).to(parameter.dtype))
        else:
            main_grad.addcmul_(grad, scale)
            found.append(None)
    return found


def weight_gradient(main_grad: Tensor | None, a: Tensor, b: Tensor) -> Tensor | None:
    """The gradient a [T, M].T @ b [T, K] of a weight [M, K], under the main_grad rule."""
    if main_grad is None:
        return a.t() @ b
    accumulate_product(main_grad, a, b)
    return None
