"""GELU or ReLU with its derivative, and the two elementwise passes used with the library's matrix products.

Forward: h = gelu(z). Backward: one pass reads grad_h and z, recomputes h, and sums the columns of grad_z for the bias,
where PyTorch makes two passes and also saves h.
Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import cdiv
from .partial_sums import store_partial
from .rows import row_tile

ACTIVATIONS = ("gelu", "gelu_new", "relu")


@triton.jit
def activate_with_slope(z, ACTIVATION: tl.constexpr):
    """Activation of z and its derivative, in z's precision; shared, so that forward and backward agree bitwise."""
    if ACTIVATION == "relu":
        value, slope = tl.where(z <= 0, 0.0, z), tl.where(z <= 0, 0.0, 1.0)  # NaN stays NaN
    elif ACTIVATION == "gelu_new":
        # 0.5 (1 + tanh u) = sigmoid(2 u): two special-function instructions, and no libdevice.
        scale = 1.5957691216057308  # 2 sqrt(2 / pi)
        squared = z * z
        share = 1.0 / (1.0 + tl.exp(-scale * z * (1.0 + 0.044715 * squared)))
        value, slope = z * share, share + z * share * (1.0 - share) * scale * (1.0 + 0.134145 * squared)
    else:
        share = 0.5 + 0.5 * tl.erf(z * 0.7071067811865476)
        value, slope = z * share, share + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)
    return value, slope


@triton.jit(do_not_specialize=["n_rows"])
def _gelu_forward_kernel(z_ptr, h_ptr, n_rows, N_COLS: tl.constexpr, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n_rows.to(tl.int64) * N_COLS  # a multiple of N_COLS, so that 128-bit accesses share one mask
    z = tl.load(z_ptr + offsets, mask, other=0.0)
    acc_dtype: tl.constexpr = tl.float64 if z_ptr.dtype.element_ty == tl.float64 else tl.float32
    h, _slope = activate_with_slope(z.to(acc_dtype), ACTIVATION)
    tl.store(h_ptr + offsets, h.to(h_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["n_rows", "rows_per_chunk"])
def _gelu_backward_kernel(
    grad_h_ptr, z_ptr, grad_z_ptr, h_ptr, partial_ptr, n_rows, rows_per_chunk,
    N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACTIVATION: tl.constexpr,
    ADDS: tl.constexpr,
):  # fmt: skip
    acc_dtype: tl.constexpr = partial_ptr.dtype.element_ty
    cols = tl.program_id(0) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    chunk = tl.program_id(1)
    col_mask = cols < N_COLS
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    first = chunk * rows_per_chunk
    last = tl.minimum(first + rows_per_chunk, n_rows)
    for start in range(first, last, BLOCK_ROWS):
        _rows, _row_mask, offsets, mask = row_tile(start, last, cols, N_COLS, BLOCK_ROWS)
        grad_h = tl.load(grad_h_ptr + offsets, mask, other=0.0).to(acc_dtype)
        h, slope = activate_with_slope(tl.load(z_ptr + offsets, mask, other=0.0).to(acc_dtype), ACTIVATION)
        grad_z = grad_h * slope
        tl.store(h_ptr + offsets, h.to(h_ptr.dtype.element_ty), mask)
        tl.store(grad_z_ptr + offsets, grad_z.to(grad_z_ptr.dtype.element_ty), mask)
        total += grad_z
    store_partial(partial_ptr + chunk.to(tl.int64) * N_COLS + cols, tl.sum(total, axis=0), col_mask, ADDS)


FORWARD_OPTIONS = {"BLOCK": 2048, "num_warps": 4}
BACKWARD_OPTIONS = {"BLOCK_ROWS": 8, "BLOCK_COLS": 256, "num_warps": 4}  # 16 elements a thread, 128-bit accesses


def rows_per_chunk(n_rows: int, n_cols: int) -> int:
    """Rows per partial sum in backward, a function of the shape only: at most 128 chunks, 8 MiB in total."""
    most = max(1, min(128, (8 << 20) // (4 * n_cols)))
    rows = max(32, cdiv(n_rows, most))
    block_rows = BACKWARD_OPTIONS["BLOCK_ROWS"]
    return cdiv(rows, block_rows) * block_rows


def gelu(z: Tensor, activation: str) -> Tensor:
    """Activation of contiguous z (gelu: erf form, gelu_new: tanh form, relu), in z's dtype."""
    h = torch.empty_like(z)
    if z.numel():
        with torch.cuda.device_of(z):
            _gelu_forward_kernel[(cdiv(z.numel(), FORWARD_OPTIONS["BLOCK"]),)](
                z, h, z.numel() // z.shape[-1], N_COLS=z.shape[-1], ACTIVATION=activation, **FORWARD_OPTIONS
            )
    return h


def gelu_backward(grad_h: Tensor, z: Tensor, activation: str, partials: Tensor, adds: bool) -> tuple[Tensor, Tensor]:
    """Contiguous grad_h, z [T, F] -> grad_z, h [T, F]; column sums of grad_z are written to partials [P, 1, F].

    adds: add to `partials` instead of overwriting. `rows_per_chunk` determines P.
    """
    n_rows, n_cols = z.shape
    rows = rows_per_chunk(n_rows, n_cols)
    grad_z, h = torch.empty_like(z), torch.empty_like(z)
    if n_rows:
        with torch.cuda.device_of(z):
            _gelu_backward_kernel[(cdiv(n_cols, BACKWARD_OPTIONS["BLOCK_COLS"]), partials.shape[0])](
                grad_h, z, grad_z, h, partials, n_rows, rows, N_COLS=n_cols, ACTIVATION=activation, ADDS=adds,
                **BACKWARD_OPTIONS,
            )  # fmt: skip
    return grad_z, h
