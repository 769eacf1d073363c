"""Calls our ops without PyTorch's dispatcher, whose overhead for Python ops exceeds the time of a kernel.

Tracing, predictions, counting and profiling still see each op; plain eager training calls the same bodies directly,
with the same autograd formula.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


def watched(x: Tensor) -> bool:
    """Whether ops on x must go through the dispatcher: tracing, modes, profiling, or x is not plain memory."""
    if torch.compiler.is_compiling():  # first, because the checks below cannot be traced
        return True
    return (
        type(x) not in (Tensor, Parameter)
        or x.is_meta
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def direct(op: Any) -> Callable[..., Any]:
    """A function that calls a custom op without autograd; its first argument is a tensor or a list of tensors."""
    body = op._init_fn
    packet = getattr(getattr(torch.ops, op._namespace), op._name)  # torch 2.14's profiler sees this but not `op`

    def call(first: Any, *others: Any) -> Any:
        return (packet if watched(first if isinstance(first, Tensor) else first[0]) else body)(first, *others)

    return call


def differentiable(op: Any, set_up: Callable[..., None], differentiate: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls a custom op, its first argument a tensor, with a formula as for `register_autograd`."""
    op.register_autograd(differentiate, setup_context=set_up)
    body = op._init_fn

    class Formula(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = body(*inputs)
            set_up(ctx, inputs, output)
            return output

        backward = staticmethod(differentiate)

    def call(first: Tensor, *others: Any) -> Any:
        if watched(first):
            return op(first, *others)
        return (Formula.apply if torch.is_grad_enabled() else body)(first, *others)

    return call
