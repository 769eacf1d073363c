"""Deterministic gradient of an embedding table: for each id, the sum of the gradient rows of its tokens.

In plain PyTorch, next to main_grad.py so that kernels and plain ops share one rule.
"""

import torch
from torch import Tensor

from .eager import direct
from .main_grad import accumulate_product

# Tables of up to this many rows (token types, positions) use a product with a one-hot matrix: at 512 rows it moves as
# many bytes as a sort, in 4 launches instead of about 17.
ONE_HOT_ROWS = 512


def add_row_sums_on_cuda(total: Tensor, ids: Tensor, grad: Tensor) -> None:
    """Not index_add_, which uses atomics, nor plain index_put_, which adds thousands of tokens of one type serially."""
    if len(total) <= ONE_HOT_ROWS:
        one_hot = (ids[:, None] == torch.arange(len(total), device=ids.device)).to(grad.dtype)
        accumulate_product(total, one_hot, grad)
    else:  # sorts the ids and sums the tokens of each in segments that depend only on the ids
        grad = grad.to(total.dtype).contiguous()
        total.add_(torch.ops.aten.embedding_dense_backward(grad, ids, len(total), -1, False))


def add_row_sums_on_cpu(total: Tensor, ids: Tensor, grad: Tensor) -> None:
    """Add the rows one by one, in token order."""
    total.index_add_(0, ids, grad.to(total.dtype))


@torch.library.custom_op("albert_fast::add_row_sums", mutates_args=("total",))
def _add_row_sums(total: Tensor, ids: Tensor, grad: Tensor) -> None:
    """Opaque because the implementation depends on the device; predictions enter it through `StepSpec.bodies`."""
    (add_row_sums_on_cuda if grad.is_cuda else add_row_sums_on_cpu)(total, ids, grad)


@_add_row_sums.register_fake
def _(total, ids, grad):
    return None


_add = direct(_add_row_sums)


def table_gradient(main_grad: Tensor | None, ids: Tensor, grad: Tensor, table: Tensor) -> Tensor | None:
    """Gradient of `table` [V, E], looked up at ids [T], from grad [T, E], under the main_grad rule."""
    acc_dtype = torch.promote_types(grad.dtype, torch.float32)
    total = grad.new_zeros(table.shape, dtype=acc_dtype) if main_grad is None else main_grad
    _add(total, ids, grad)
    return total.to(table.dtype) if main_grad is None else None
