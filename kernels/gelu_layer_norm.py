"""Transform of the masked-LM head, LN(gelu(x W' + b)): everything after the product in one pass per direction.

Forward reads the product, adds the bias, and writes the normalised activation; backward recomputes the activation and
its derivative from the product, so neither is saved. Statistics are fp32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import cdiv, check_device, from_rows, to_rows
from .calls import Call
from .cost import Cost, costs, size_of
from .eager import differentiable, direct
from .gelu import ACTIVATIONS, activate_with_slope
from .layer_norm import normalise, normalise_backward
from .main_grad import weight_gradient
from .partial_sums import vector_gradients
from .rows import chunk_rows, launch_options, register_candidates, row_tile, statistics

register_candidates("gelu_layer_norm")


@triton.jit(do_not_specialize=["n_rows"])
def _gelu_layer_norm_forward_kernel(
    z_ptr, bias_ptr, weight_ptr, layer_norm_bias_ptr, y_ptr, mean_ptr, rstd_ptr, n_rows, epsilon,
    N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    acc_dtype: tl.constexpr = mean_ptr.dtype.element_ty
    cols = tl.arange(0, BLOCK_COLS)
    col_mask = cols < N_COLS
    rows, row_mask, offsets, mask = row_tile(tl.program_id(0) * BLOCK_ROWS, n_rows, cols, N_COLS, BLOCK_ROWS)
    bias = tl.load(bias_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    weight = tl.load(weight_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    layer_norm_bias = tl.load(layer_norm_bias_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    # Columns past the end of the row are zero, and so is their activation.
    h, _slope = activate_with_slope(tl.load(z_ptr + offsets, mask, other=0.0).to(acc_dtype) + bias, ACTIVATION)
    y = normalise(h, col_mask, mean_ptr, rstd_ptr, rows, row_mask, epsilon, N_COLS) * weight + layer_norm_bias
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["n_rows", "rows_per_chunk"])
def _gelu_layer_norm_backward_kernel(
    grad_ptr, z_ptr, bias_ptr, weight_ptr, mean_ptr, rstd_ptr, grad_z_ptr, partial_ptr, n_rows, rows_per_chunk,
    N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    acc_dtype: tl.constexpr = mean_ptr.dtype.element_ty
    chunk = tl.program_id(0)
    cols = tl.arange(0, BLOCK_COLS)
    col_mask = cols < N_COLS
    bias = tl.load(bias_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    weight = tl.load(weight_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    grad_bias = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    grad_weight = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    grad_layer_norm_bias = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    first = chunk * rows_per_chunk
    last = tl.minimum(first + rows_per_chunk, n_rows)
    for start in range(first, last, BLOCK_ROWS):
        rows, row_mask, offsets, mask = row_tile(start, last, cols, N_COLS, BLOCK_ROWS)
        grad = tl.load(grad_ptr + offsets, mask, other=0.0).to(acc_dtype)
        h, slope = activate_with_slope(tl.load(z_ptr + offsets, mask, other=0.0).to(acc_dtype) + bias, ACTIVATION)
        grad_h, normalised = normalise_backward(grad, h, weight, mean_ptr, rstd_ptr, rows, row_mask, N_COLS)
        grad_z = grad_h * slope
        tl.store(grad_z_ptr + offsets, grad_z.to(grad_z_ptr.dtype.element_ty), mask)
        grad_bias += grad_z
        grad_weight += grad * normalised
        grad_layer_norm_bias += grad
    partial_ptr += chunk.to(tl.int64) * 3 * N_COLS
    tl.store(partial_ptr + cols, tl.sum(grad_bias, axis=0), col_mask)
    tl.store(partial_ptr + N_COLS + cols, tl.sum(grad_weight, axis=0), col_mask)
    tl.store(partial_ptr + 2 * N_COLS + cols, tl.sum(grad_layer_norm_bias, axis=0), col_mask)


@torch.library.custom_op("albert_fast::linear_gelu_layer_norm", mutates_args=())
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, layer_norm_weight: Tensor, layer_norm_bias: Tensor, activation: str,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, and for backward the product without its bias, mean and 1 / standard deviation."""
    z = x @ weight.t()
    y, mean, rstd = torch.empty_like(z), *statistics(z)
    n_rows, n_cols = z.shape
    options = launch_options("gelu_layer_norm_forward", z)
    if n_rows:
        with torch.cuda.device_of(z):
            _gelu_layer_norm_forward_kernel[(cdiv(n_rows, options["BLOCK_ROWS"]),)](
                z, bias, layer_norm_weight, layer_norm_bias, y, mean, rstd, n_rows, epsilon,
                N_COLS=n_cols, ACTIVATION=activation, **options,
            )  # fmt: skip
    return y, z, mean, rstd


@_forward.register_fake
def _forward_fake(x, weight, bias, layer_norm_weight, layer_norm_bias, activation, epsilon):
    z = x.new_empty(x.shape[0], weight.shape[0])
    return torch.empty_like(z), z, *statistics(z)


@costs("albert_fast::linear_gelu_layer_norm")
def _forward_costs(x, weight, bias, layer_norm_weight, layer_norm_bias, activation, epsilon):
    y, z, mean, rstd = _forward_fake(x, weight, bias, layer_norm_weight, layer_norm_bias, activation, epsilon)
    moved = size_of(z, bias, layer_norm_weight, layer_norm_bias, y, mean, rstd)
    product = Cost("library", size_of(x, weight, z), 2 * x.numel() * weight.shape[0], kind="product")
    return [product, Cost("_gelu_layer_norm_forward_kernel", moved, kind="layer_norm")]


@torch.library.custom_op("albert_fast::gelu_layer_norm_backward", mutates_args=())
def _backward(
    grad: Tensor, z: Tensor, bias: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    """grad_z and the partial sums [P, 3, M] for the gradients of bias and LayerNorm's two."""
    grad = grad.contiguous()
    grad_z, partials = _backward_fake(grad, z, bias, weight, mean, rstd, activation)
    n_rows, n_cols = z.shape
    options = launch_options("gelu_layer_norm_backward", z)
    if n_rows:
        with torch.cuda.device_of(z):
            _gelu_layer_norm_backward_kernel[(partials.shape[0],)](
                grad, z, bias, weight, mean, rstd, grad_z, partials, n_rows, chunk_rows("gelu_layer_norm_backward", z),
                N_COLS=n_cols, ACTIVATION=activation, **options,
            )  # fmt: skip
    return grad_z, partials


@_backward.register_fake
def _backward_fake(grad, z, bias, weight, mean, rstd, activation):
    n_rows, n_cols = z.shape
    chunks = cdiv(n_rows, chunk_rows("gelu_layer_norm_backward", z))
    return torch.empty_like(z), mean.new_empty(chunks, 3, n_cols)


@costs("albert_fast::gelu_layer_norm_backward")
def _backward_costs(grad, z, bias, weight, mean, rstd, activation):
    grad_z, partials = _backward_fake(grad, z, bias, weight, mean, rstd, activation)
    least = size_of(grad, z, bias, weight, mean, rstd, grad_z)
    name = "_gelu_layer_norm_backward_kernel"
    return [Cost(name, least + size_of(partials), kind="layer_norm", least_bytes=least)]


def calls(sizes, dtype, make):
    rows, width = sizes.predictions or max(1, sizes.tokens * 15 // 100), sizes.hidden
    x, z, weight = make(rows, width, dtype=dtype), make(rows, width, dtype=dtype), make(width, width, dtype=dtype)
    vectors = [make(width, dtype=dtype) for _ in range(3)]
    mean, rstd = (make(rows, dtype=torch.promote_types(dtype, torch.float32)) for _ in range(2))
    for activation in ACTIVATIONS:
        yield Call(_forward, (x, weight, *vectors, activation, 1e-12))
        yield Call(_backward, (x, z, *vectors[:2], mean, rstd, activation))


backward = direct(_backward)


def _save_for_backward(ctx, inputs, output):
    x, weight, bias, layer_norm_weight, layer_norm_bias, ctx.activation, _ = inputs
    ctx.save_for_backward(x, weight, bias, layer_norm_weight, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    vectors = bias, layer_norm_weight, layer_norm_bias
    ctx.dtypes = [vector.dtype for vector in vectors]
    ctx.main_grads = [getattr(parameter, "main_grad", None) for parameter in (weight, *vectors)]


def _differentiate(ctx, grad, *_):
    if grad is None:
        return (None,) * 7
    x, weight, bias, layer_norm_weight, z, mean, rstd = ctx.saved_tensors
    grad_z, partials = backward(grad, z, bias, layer_norm_weight, mean, rstd, ctx.activation)
    needs_x, needs_weight = ctx.needs_input_grad[:2]
    grad_weight = weight_gradient(ctx.main_grads[0], grad_z, x) if needs_weight else None
    vectors = vector_gradients(partials, ctx.main_grads[1:], ctx.dtypes)
    return grad_z @ weight if needs_x else None, grad_weight, *vectors, None, None


forward = differentiable(_forward, _save_for_backward, _differentiate)


def linear_gelu_layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, layer_norm_weight: Tensor, layer_norm_bias: Tensor,
    activation: str = "gelu", epsilon: float = 1e-12,
) -> Tensor:  # fmt: skip
    """LN(activation(x [..., H] @ weight [M, H].T + bias [M])) -> [..., M], gradients under the main_grad rule.

    Raises:
        ValueError: x is on the CPU, shapes or dtypes disagree, or the activation is unknown.
    """
    check_device("linear_gelu_layer_norm", x)
    vectors = bias, layer_norm_weight, layer_norm_bias
    if x.dim() == 0 or x.shape[-1:] != weight.shape[1:] or any(v.shape != weight.shape[:1] for v in vectors):
        raise ValueError(
            f"x {list(x.shape)}, weight {list(weight.shape)} and vectors {[list(v.shape) for v in vectors]} must be "
            "[..., H], [M, H] and three [M]"
        )
    if x.dtype != weight.dtype or activation not in ACTIVATIONS:
        raise ValueError(f"x {x.dtype} and weight {weight.dtype} must be of one dtype; {activation!r} in {ACTIVATIONS}")
    return from_rows(forward(to_rows(x), weight, *vectors, activation, epsilon)[0], x)
