"""LayerNorm of a tile of rows on the device, and its gradient: shared by the kernels that have one in their pass."""

import triton
import triton.language as tl


@triton.jit
def normalise(value, col_mask, mean_ptr, rstd_ptr, rows, row_mask, epsilon, N_COLS: tl.constexpr):
    """The rows of value, zero past N_COLS, less their mean and over their standard deviation; both are stored.

    What lies past a row's end adds nothing to its sum; its distance from the mean must be masked.
    """
    mean = tl.sum(value, axis=1) / N_COLS
    centred = tl.where(col_mask[None, :], value - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / N_COLS + epsilon)
    tl.store(mean_ptr + rows, mean, row_mask)
    tl.store(rstd_ptr + rows, rstd, row_mask)
    return centred * rstd[:, None]


@triton.jit
def normalise_backward(grad, value, weight, mean_ptr, rstd_ptr, rows, row_mask, N_COLS: tl.constexpr):
    """The gradient of value from that of normalise(value) * weight + bias, and the normalised rows again.

    Rows past the end have grad 0 and rstd 0, columns past it weight 0 and grad 0: nothing of them is summed.
    """
    mean = tl.load(mean_ptr + rows, row_mask, other=0.0)[:, None]
    rstd = tl.load(rstd_ptr + rows, row_mask, other=0.0)[:, None]
    normalised = (value - mean) * rstd
    grad_normalised = grad * weight
    mean_grad = tl.sum(grad_normalised, axis=1)[:, None] / N_COLS
    slope = tl.sum(grad_normalised * normalised, axis=1)[:, None] / N_COLS
    return (grad_normalised - mean_grad - normalised * slope) * rstd, normalised
