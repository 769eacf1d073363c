"""Gradients of vectors (biases, LayerNorm parameters) from partial sums, reduced in a fixed order without atomics.

A backward kernel writes one fp32 partial sum of each vector's gradient per chunk of rows. The column kernel here adds
them, into `main_grad` in place if a parameter has one, else into new vectors.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import cdiv
from .calls import Call
from .cost import Cost, costs, size_of
from .eager import direct
from .main_grad import placed
from .pending_sums import wait


@triton.jit
def store_partial(pointers, value, mask, ADDS: tl.constexpr):
    """Store a partial sum, or add it to that of an earlier use of the vector (pending_sums.py)."""
    if ADDS:
        value += tl.load(pointers, mask, other=0.0)
    tl.store(pointers, value, mask)


@triton.jit(do_not_specialize=["n_partials"])
def _sum_partials_kernel(
    partial_ptr, total0_ptr, total1_ptr, total2_ptr, n_partials,
    N_VECTORS: tl.constexpr, N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):  # fmt: skip
    vector = tl.program_id(1)
    cols = tl.program_id(0) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    col_mask = cols < N_COLS
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLS), partial_ptr.dtype.element_ty)
    for start in range(0, n_partials, BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        mask = (rows < n_partials)[:, None] & col_mask[None, :]
        total += tl.load(partial_ptr + (rows * N_VECTORS + vector)[:, None] * N_COLS + cols[None, :], mask, other=0.0)
    summed = tl.sum(total, axis=0)
    total_ptr = total0_ptr
    if vector == 1:
        total_ptr = total1_ptr
    if vector == 2:
        total_ptr = total2_ptr
    if ACCUMULATE:
        summed += tl.load(total_ptr + cols, col_mask, other=0.0)
    tl.store(total_ptr + cols, summed, col_mask)


def sum_options(n_cols: int) -> dict[str, int]:
    """Launch options: a tile that gives every SM a program."""
    return {"BLOCK_ROWS": 128, "BLOCK_COLS": 16 if n_cols < 2048 else 64}


def _launch(partials: Tensor, totals: Sequence[Tensor], accumulate: bool) -> None:
    n_partials, n_vectors, n_cols = partials.shape
    first, *others = totals
    options = sum_options(n_cols)
    with torch.cuda.device_of(partials):
        _sum_partials_kernel[(cdiv(n_cols, options["BLOCK_COLS"]), n_vectors)](
            partials, first, *others, *[first] * (2 - len(others)), n_partials,
            N_VECTORS=n_vectors, N_COLS=n_cols, ACCUMULATE=accumulate, **options,
        )  # fmt: skip


@torch.library.custom_op("albert_fast::sum_partials", mutates_args=())
def _sum_partials(partials: Tensor) -> Tensor:
    """partials [P, K, N], K at most 3 -> [K, N]."""
    totals = partials.new_empty(partials.shape[1:])
    _launch(partials, totals.unbind(0), accumulate=False)
    return totals


@_sum_partials.register_fake
def _sums(partials):
    return partials.new_empty(partials.shape[1:])


@costs("albert_fast::sum_partials")
def _sum_costs(partials):
    return [Cost("_sum_partials_kernel", size_of(partials, _sums(partials)), least_bytes=size_of(_sums(partials)))]


@torch.library.custom_op("albert_fast::accumulate_partials", mutates_args=("totals",))
def _accumulate_partials(partials: Tensor, totals: Sequence[Tensor]) -> None:
    """Add the sums of partials [P, K, N] over P to K vectors of the same dtype, in place."""
    _launch(partials, totals, accumulate=True)


@_accumulate_partials.register_fake
def _(partials, totals):
    return None


@costs("albert_fast::accumulate_partials")
def _accumulate_costs(partials, totals):
    least = 2 * size_of(*totals)
    return [Cost("_sum_partials_kernel", size_of(partials) + least, least_bytes=least)]


sum_partials, accumulate_partials = direct(_sum_partials), direct(_accumulate_partials)


def calls(sizes, dtype, make):
    for vectors, columns in ((3, sizes.hidden), (1, sizes.intermediate)):
        partials = make(200, vectors, columns, dtype=torch.float32)
        yield Call(_sum_partials, (partials,))
        yield Call(_accumulate_partials, (partials, [make(columns, dtype=torch.float32) for _ in range(vectors)]))


def vector_gradients(
    partials: Tensor, main_grads: Sequence[Tensor | None], dtypes: Sequence[torch.dtype], n_rows: int | None = None,
    earlier: Tensor | None = None,
) -> list[Tensor | None]:  # fmt: skip
    """Gradients of K vectors from partials [P, K, N] under the main_grad rule: None for each added to main_grad.

    n_rows: number of rows summed over; later uses of the vectors over as many rows may add to the same partial sums.
    earlier: pending partial sums that the new ones were already added to; `partials` is then empty.
    """
    if earlier is not None:
        return [None] * len(main_grads)
    if all(g is not None and g.dtype == partials.dtype and g.is_contiguous() for g in main_grads):
        if n_rows is None or not wait(partials, main_grads, n_rows):
            accumulate_partials(partials, main_grads)
        return [None] * len(main_grads)
    return list(map(placed, main_grads, sum_partials(partials).unbind(0), dtypes))
