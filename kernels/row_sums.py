"""The gradient of a table of embeddings: for each id the sum of the rows that took it, the same on every run.

Plain PyTorch, here beside main_grad.py so that kernels and plain ops share one rule.
"""

import torch
from torch import Tensor

from .eager import direct
from .main_grad import accumulate_product

# Rows of a table (token types, positions) up to which its sums are a product with a one-hot matrix: at 512 rows that
# moves as much as a sort, in 4 launches in place of some 17.
ONE_HOT_ROWS = 512


def add_row_sums_on_cuda(total: Tensor, ids: Tensor, grad: Tensor) -> None:
    """index_add_ would add with atomics, and index_put_ takes the thousands of tokens of one type one by one."""
    if len(total) <= ONE_HOT_ROWS:
        one_hot = (ids[:, None] == torch.arange(len(total), device=ids.device)).to(grad.dtype)
        accumulate_product(total, one_hot, grad)
    else:  # it sorts the ids and sums the tokens of each in parts whose bounds depend on the ids alone
        grad = grad.to(total.dtype).contiguous()
        total.add_(torch.ops.aten.embedding_dense_backward(grad, ids, len(total), -1, False))


def add_row_sums_on_cpu(total: Tensor, ids: Tensor, grad: Tensor) -> None:
    """One after another, in the order of the tokens."""
    total.index_add_(0, ids, grad.to(total.dtype))


@torch.library.custom_op("albert_fast::add_row_sums", mutates_args=("total",))
def _add_row_sums(total: Tensor, ids: Tensor, grad: Tensor) -> None:
    """Opaque, because what runs inside depends on the device; predictions enter it by `StepSpec.bodies`."""
    (add_row_sums_on_cuda if grad.is_cuda else add_row_sums_on_cpu)(total, ids, grad)


@_add_row_sums.register_fake
def _(total, ids, grad):
    return None


_add = direct(_add_row_sums)


def table_gradient(main_grad: Tensor | None, ids: Tensor, grad: Tensor, table: Tensor) -> Tensor | None:
    """The gradient of `table` [V, E] looked up at ids [T], from grad [T, E], under the main_grad rule."""
    acc_dtype = torch.promote_types(grad.dtype, torch.float32)
    total = grad.new_zeros(table.shape, dtype=acc_dtype) if main_grad is None else main_grad
    _add(total, ids, grad)
    return total.to(table.dtype) if main_grad is None else None
