"""LayerNorm of a tile of rows and its gradient, as device functions shared by the kernels."""

import triton
import triton.language as tl


@triton.jit
def normalise(value, col_mask, mean_ptr, rstd_ptr, rows, row_mask, epsilon, N_COLS: tl.constexpr):
    """Normalise the rows of `value` (zero past N_COLS) and store their mean and 1 / standard deviation.

    Columns past the end add nothing to the sum, but their distance from the mean must be masked.
    """
    mean = tl.sum(value, axis=1) / N_COLS
    centred = tl.where(col_mask[None, :], value - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / N_COLS + epsilon)
    tl.store(mean_ptr + rows, mean, row_mask)
    tl.store(rstd_ptr + rows, rstd, row_mask)
    return centred * rstd[:, None]


@triton.jit
def normalise_backward(grad, value, weight, mean_ptr, rstd_ptr, rows, row_mask, N_COLS: tl.constexpr):
    """Gradient of `value` from `grad`, that of normalise(value) * weight + bias; also returns the normalised rows.

    Rows past the end have grad 0 and rstd 0, columns past the end weight 0 and grad 0, so they add nothing to sums.
    """
    mean = tl.load(mean_ptr + rows, row_mask, other=0.0)[:, None]
    rstd = tl.load(rstd_ptr + rows, row_mask, other=0.0)[:, None]
    normalised = (value - mean) * rstd
    grad_normalised = grad * weight
    mean_grad = tl.sum(grad_normalised, axis=1)[:, None] / N_COLS
    slope = tl.sum(grad_normalised * normalised, axis=1)[:, None] / N_COLS
    return (grad_normalised - mean_grad - normalised * slope) * rstd, normalised
