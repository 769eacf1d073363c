"""Gather of the rows of some tokens, with a one-pass backward.

Forward is PyTorch's gather. Backward writes every row of the gradient once: each program finds its tokens among the
ascending `places` by binary search (which stays in L2), adds their rows (mostly none) in order, and rounds once.
PyTorch would sort the places again, and fill, sum and copy [T, H] in fp32. No atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import cdiv, check_device
from .calls import Call
from .cost import Cost, costs, size_of
from .eager import direct
from .rows import launch_options, register_candidates, row_tile

register_candidates("gather_rows")


@triton.jit(do_not_specialize=["n_rows", "n_places"])
def _gather_rows_backward_kernel(
    grad_ptr, place_ptr, grad_x_ptr, n_rows, n_places,
    N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, HALVINGS: tl.constexpr,
):  # fmt: skip
    acc_dtype: tl.constexpr = tl.float64 if grad_ptr.dtype.element_ty == tl.float64 else tl.float32
    cols = tl.arange(0, BLOCK_COLS)
    col_mask = cols < N_COLS
    rows, _row_mask, row_offsets, mask = row_tile(tl.program_id(0) * BLOCK_ROWS, n_rows, cols, N_COLS, BLOCK_ROWS)
    low = tl.zeros((BLOCK_ROWS,), tl.int32)  # binary search: places[:low] are below the row, places[high:] are not
    high = low + n_places
    for _ in range(HALVINGS):
        open_ = low < high
        middle = (low + high) // 2
        below = tl.load(place_ptr + middle, open_, other=0) < rows
        low = tl.where(open_ & below, middle + 1, low)
        high = tl.where(open_ & (below == 0), middle, high)
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    found = (low < n_places) & (tl.load(place_ptr + low, low < n_places, other=0) == rows)
    while tl.max(found.to(tl.int32), axis=0) > 0:
        offsets = low.to(tl.int64)[:, None] * N_COLS + cols[None, :]
        total += tl.load(grad_ptr + offsets, found[:, None] & col_mask[None, :], other=0.0).to(acc_dtype)
        low += 1
        found = found & (low < n_places) & (tl.load(place_ptr + low, low < n_places, other=0) == rows)
    tl.store(grad_x_ptr + row_offsets, total.to(grad_x_ptr.dtype.element_ty), mask)


@torch.library.custom_op("albert_fast::gather_rows_backward", mutates_args=())
def _backward(grad: Tensor, places: Tensor, n_rows: int) -> Tensor:
    """grad [R, H] of the rows at `places`, int [R], ascending -> [n_rows, H]; places >= n_rows are ignored."""
    grad, places = grad.contiguous(), places.contiguous()
    grad_x = _backward_fake(grad, places, n_rows)
    options = launch_options("gather_rows_backward", grad_x)
    if n_rows:
        with torch.cuda.device_of(grad):
            _gather_rows_backward_kernel[(cdiv(n_rows, options["BLOCK_ROWS"]),)](
                grad, places, grad_x, n_rows, len(places), N_COLS=grad.shape[1], HALVINGS=len(places).bit_length(),
                **options,
            )  # fmt: skip
    return grad_x


@_backward.register_fake
def _backward_fake(grad, places, n_rows):
    return grad.new_empty(n_rows, grad.shape[1])


@costs("albert_fast::gather_rows_backward")
def _backward_costs(grad, places, n_rows):
    return [Cost("_gather_rows_backward_kernel", size_of(grad, places, _backward_fake(grad, places, n_rows)))]


_direct_backward = direct(_backward)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, tokens, places):
        ctx.save_for_backward(places)
        ctx.n_rows = len(x)
        return torch.nn.functional.embedding(tokens, x)

    @staticmethod
    def backward(ctx, grad):
        return _direct_backward(grad, *ctx.saved_tensors, ctx.n_rows), None, None


def calls(sizes, dtype, make):
    rows = sizes.predictions or max(1, sizes.tokens * 15 // 100)
    for kind in (torch.int32, torch.int64):
        yield Call(_backward, (make(rows, sizes.hidden, dtype=dtype), make(rows, dtype=kind), sizes.tokens))


def gather_rows(x: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    """x [T, H] at tokens int [R], ascending -> [R, H].

    places: int [R], like tokens, but T for unused entries, whose row is undefined and whose gradient is dropped.

    Raises:
        ValueError: x is on the CPU, or shapes disagree.
    """
    check_device("gather_rows", x)
    if x.dim() != 2 or tokens.dim() != 1 or tokens.shape != places.shape:
        shapes = [list(t.shape) for t in (x, tokens, places)]
        raise ValueError(f"x, tokens and places {shapes} must be [T, H], [R] and [R]")
    return _GatherRows.apply(x, tokens, places)
