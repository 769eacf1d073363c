"""Bias, dropout, residual and LayerNorm in one pass: s = residual + dropout(x + bias), y = LN(s).

Unfused, x + bias, the mask, the sum and the normalised row each make a round trip to memory; here each row is read
once, and s and y are written once. Backward reads grad_y and s, recomputes the normalised row and the mask, and writes
the gradient of the residual (and of x, if dropout makes it different). Statistics are fp32 and computed from s as
stored, so that backward sees the row that forward normalised. The gradients of the three parameters are accumulated in
one fp32 partial sum per contiguous chunk of rows, and a column kernel adds the partial sums in a fixed order. The
number of chunks depends only on the shape and there are no atomics, so results are bitwise identical on every run and
every card. Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450; pre-LN: Xiong et al., arXiv 2002.04745.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import cdiv, check_device, checked_key, from_rows, to_rows
from .calls import Call
from .cost import Cost, costs, size_of
from .eager import differentiable, direct
from .layer_norm import normalise, normalise_backward
from .partial_sums import store_partial, vector_gradients
from .pending_sums import pending
from .philox import dropout_arguments, dropout_multiplier
from .rows import chunk_rows, launch_options, register_candidates, row_tile, statistics


@triton.jit(do_not_specialize=["n_rows", "rows_per_program", "site", "threshold"])
def _add_layer_norm_forward_kernel(
    x_ptr, bias_ptr, residual_ptr, weight_ptr, layer_norm_bias_ptr, key_ptr, y_ptr, sum_ptr, mean_ptr, rstd_ptr,
    n_rows, rows_per_program, epsilon, site, threshold, scale,
    N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    acc_dtype: tl.constexpr = mean_ptr.dtype.element_ty  # fp32; fp64 for gradcheck
    # N_COLS is constexpr so that the compiler knows the alignment of rows and uses 128-bit accesses.
    cols = tl.arange(0, BLOCK_COLS)
    col_mask = cols < N_COLS
    bias = tl.load(bias_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    weight = tl.load(weight_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    layer_norm_bias = tl.load(layer_norm_bias_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    first = tl.program_id(0) * rows_per_program
    last = tl.minimum(first + rows_per_program, n_rows)
    for start in range(first, last, BLOCK_ROWS):
        rows, row_mask, offsets, mask = row_tile(start, last, cols, N_COLS, BLOCK_ROWS)
        value = tl.load(x_ptr + offsets, mask, other=0.0).to(acc_dtype) + bias
        if HAS_DROPOUT:
            value *= dropout_multiplier(key_ptr, site, rows, threshold, scale, BLOCK_ROWS, BLOCK_COLS)
        value += tl.load(residual_ptr + offsets, mask, other=0.0).to(acc_dtype)
        stored = value.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + offsets, stored, mask)
        value = stored.to(acc_dtype)
        y = normalise(value, col_mask, mean_ptr, rstd_ptr, rows, row_mask, epsilon, N_COLS) * weight + layer_norm_bias
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["n_rows", "rows_per_chunk", "site", "threshold"])
def _add_layer_norm_backward_kernel(
    grad_y_ptr, more_grad_ptr, sum_ptr, mean_ptr, rstd_ptr, weight_ptr, key_ptr, grad_residual_ptr, grad_x_ptr,
    partial_ptr, n_rows, rows_per_chunk, site, threshold, scale,
    N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    HAS_DROPOUT: tl.constexpr, MORE_OF: tl.constexpr, ADDS: tl.constexpr,
):  # fmt: skip
    acc_dtype: tl.constexpr = mean_ptr.dtype.element_ty
    chunk = tl.program_id(0)
    cols = tl.arange(0, BLOCK_COLS)
    col_mask = cols < N_COLS
    weight = tl.load(weight_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    grad_bias = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    grad_weight = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    grad_layer_norm_bias = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    first = chunk * rows_per_chunk
    last = tl.minimum(first + rows_per_chunk, n_rows)
    for start in range(first, last, BLOCK_ROWS):
        rows, row_mask, offsets, mask = row_tile(start, last, cols, N_COLS, BLOCK_ROWS)
        grad_y = tl.load(grad_y_ptr + offsets, mask, other=0.0).to(acc_dtype)
        if MORE_OF == "y":
            grad_y += tl.load(more_grad_ptr + offsets, mask, other=0.0).to(acc_dtype)
        value = tl.load(sum_ptr + offsets, mask, other=0.0).to(acc_dtype)
        grad, normalised = normalise_backward(grad_y, value, weight, mean_ptr, rstd_ptr, rows, row_mask, N_COLS)
        if MORE_OF == "sum":
            grad += tl.load(more_grad_ptr + offsets, mask, other=0.0).to(acc_dtype)
        tl.store(grad_residual_ptr + offsets, grad.to(grad_residual_ptr.dtype.element_ty), mask)
        if HAS_DROPOUT:
            grad *= dropout_multiplier(key_ptr, site, rows, threshold, scale, BLOCK_ROWS, BLOCK_COLS)
            tl.store(grad_x_ptr + offsets, grad.to(grad_x_ptr.dtype.element_ty), mask)
        grad_bias += grad
        grad_weight += grad_y * normalised
        grad_layer_norm_bias += grad_y
    partial_ptr += chunk.to(tl.int64) * 3 * N_COLS
    store_partial(partial_ptr + cols, tl.sum(grad_bias, axis=0), col_mask, ADDS)
    store_partial(partial_ptr + N_COLS + cols, tl.sum(grad_weight, axis=0), col_mask, ADDS)
    store_partial(partial_ptr + 2 * N_COLS + cols, tl.sum(grad_layer_norm_bias, axis=0), col_mask, ADDS)


register_candidates("add_layer_norm")


@torch.library.custom_op("albert_fast::add_layer_norm", mutates_args=())
def _forward(
    x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, layer_norm_bias: Tensor, key: Tensor | None,
    epsilon: float, dropout: float, site: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n_rows, n_cols = x.shape
    x, residual = x.contiguous(), residual.contiguous()
    y, total, mean, rstd = _forward_fake(x, bias, residual, weight, layer_norm_bias, key, epsilon, dropout, site)
    options = launch_options("add_layer_norm_forward", x)
    rows = options["BLOCK_ROWS"] * max(1, min(4, n_rows // 1024))
    if n_rows:
        with torch.cuda.device_of(x):
            _add_layer_norm_forward_kernel[(cdiv(n_rows, rows),)](
                x, bias, residual, weight, layer_norm_bias, key, y, total, mean, rstd,
                n_rows, rows, epsilon, site, *dropout_arguments(dropout),
                N_COLS=n_cols, HAS_DROPOUT=dropout > 0, **options,
            )  # fmt: skip
    return y, total, mean, rstd


@_forward.register_fake
def _forward_fake(x, bias, residual, weight, layer_norm_bias, key, epsilon, dropout, site):
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, torch.empty_like(y), *statistics(x)


@costs("albert_fast::add_layer_norm")
def _forward_costs(x, bias, residual, weight, layer_norm_bias, key, epsilon, dropout, site):
    made = _forward_fake(x, bias, residual, weight, layer_norm_bias, key, epsilon, dropout, site)
    read = size_of(x, bias, residual, weight, layer_norm_bias, key if dropout else None)
    return [Cost("_add_layer_norm_forward_kernel", read + size_of(*made), kind="layer_norm")]


@torch.library.custom_op("albert_fast::add_layer_norm_backward", mutates_args=("sums",))
def _backward(
    grad_y: Tensor, more_grad: Tensor | None, total: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor,
    key: Tensor | None, dropout: float, site: int, more_of: str, sums: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns grad_residual, grad_x (empty without dropout, where it equals grad_residual) and partial sums [P, 3, N].

    more_grad is a second gradient of what more_of names: the sum (pre-LN), or y, which two ops read (post-LN). If
    `sums` holds the partial sums of an earlier use, the new ones are added to it and none are returned.
    """
    n_rows, n_cols = total.shape
    grad_y = grad_y.contiguous()
    more_of = "nothing" if more_grad is None else more_of
    more_grad = None if more_grad is None else more_grad.contiguous()
    inputs = grad_y, more_grad, total, mean, rstd, weight, key
    grad_residual, grad_x, partials = _backward_fake(*inputs, dropout, site, more_of, sums)
    written = partials if sums is None else sums
    options = launch_options("add_layer_norm_backward", total)
    if n_rows:
        with torch.cuda.device_of(total):
            _add_layer_norm_backward_kernel[(written.shape[0],)](
                *inputs, grad_residual, grad_x, written,
                n_rows, chunk_rows("add_layer_norm_backward", total), site, *dropout_arguments(dropout),
                N_COLS=n_cols, HAS_DROPOUT=dropout > 0, MORE_OF=more_of, ADDS=sums is not None, **options,
            )  # fmt: skip
    return grad_residual, grad_x, partials


@_backward.register_fake
def _backward_fake(grad_y, more_grad, total, mean, rstd, weight, key, dropout, site, more_of, sums):
    n_rows, n_cols = total.shape
    chunks = cdiv(n_rows, chunk_rows("add_layer_norm_backward", total)) if sums is None else 0
    grad_x = torch.empty_like(total) if dropout > 0 else total.new_empty(0)
    return torch.empty_like(total), grad_x, mean.new_empty(chunks, 3, n_cols)


@costs("albert_fast::add_layer_norm_backward")
def _backward_costs(grad_y, more_grad, total, mean, rstd, weight, key, dropout, site, more_of, sums):
    inputs = grad_y, more_grad, total, mean, rstd, weight
    *grads, partials = _backward_fake(*inputs, key, dropout, site, more_of, sums)
    least, sums = size_of(*inputs, key if dropout else None, *grads), size_of(partials, sums, sums)
    return [Cost("_add_layer_norm_backward_kernel", least + sums, kind="layer_norm", least_bytes=least)]


def _keep(ctx, inputs, output):
    _, bias, _, weight, layer_norm_bias, key, _, ctx.dropout, ctx.site = inputs
    ctx.save_for_backward(*output[1:], weight, key)
    ctx.set_materialize_grads(False)
    ctx.dtypes = [parameter.dtype for parameter in (bias, weight, layer_norm_bias)]
    ctx.main_grads = [getattr(parameter, "main_grad", None) for parameter in (bias, weight, layer_norm_bias)]


def _differentiate(ctx, grad_y, more_grad, more_of):
    if grad_y is None and more_grad is None:
        return (None,) * 9
    total, mean, rstd, weight, key = ctx.saved_tensors
    grad_y = torch.zeros_like(total) if grad_y is None else grad_y
    sums = pending(ctx.main_grads, len(total))
    grad_residual, grad_x, partials = backward(
        grad_y, more_grad, total, mean, rstd, weight, key, ctx.dropout, ctx.site, more_of, sums
    )
    grad_x = grad_x if ctx.dropout else grad_residual
    bias, *layer_norm = vector_gradients(partials, ctx.main_grads, ctx.dtypes, len(total), sums)
    return grad_x, bias, grad_residual, *layer_norm, None, None, None, None


def _set_up(ctx, inputs, output):
    _keep(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[2:])


forward = differentiable(
    _forward, _set_up, lambda ctx, grad_y, grad_sum, _mean, _rstd: _differentiate(ctx, grad_y, grad_sum, "sum")
)
forward_alone, backward = direct(_forward), direct(_backward)


class _AddPostLayerNorm(torch.autograd.Function):
    """Returns y twice, each with its own gradient; a custom op may not return the same tensor twice."""

    @staticmethod
    def forward(ctx, *inputs):
        output = forward_alone(*inputs)
        _keep(ctx, inputs, output)
        return output[0], output[0].detach()

    @staticmethod
    def backward(ctx, grad, other):
        return _differentiate(ctx, *((grad, other) if grad is not None else (other, None)), "y")


def calls(sizes, dtype, make):
    shape = sizes.tokens, sizes.hidden
    x, residual, grad = (make(*shape, dtype=dtype) for _ in range(3))
    vectors = [make(shape[1], dtype=dtype) for _ in range(3)]
    mean, rstd = (make(shape[0], dtype=torch.promote_types(dtype, torch.float32)) for _ in range(2))
    for dropout, key in ((0.0, None), (0.1, make(2, dtype=torch.int64))):
        yield Call(_forward, (x, vectors[0], residual, *vectors[1:], key, 1e-12, dropout, 3))
        for more_grad, more_of in ((None, "sum"), (residual, "sum"), (residual, "y")):
            arguments = grad, more_grad, x, mean, rstd, vectors[0], key, dropout, 3, more_of
            yield Call(_backward, (*arguments, None))
        sums = make(*_backward_fake(*arguments, None)[2].shape, dtype=mean.dtype)
        yield Call(_backward, (*arguments, sums))


def _checked(op, x, bias, residual, weight, layer_norm_bias, epsilon, dropout, key, site):
    check_device(op, x)
    if x.dim() == 0 or x.shape != residual.shape or x.dtype != residual.dtype:
        both = f"x {x.dtype} {list(x.shape)} and residual {residual.dtype} {list(residual.shape)}"
        raise ValueError(f"{both} must be [..., H], of one shape and dtype")
    for name, vector in (("bias", bias), ("weight", weight), ("layer_norm_bias", layer_norm_bias)):
        if vector.shape != x.shape[-1:] or not vector.is_contiguous():
            raise ValueError(f"{name} {list(vector.shape)} must be a contiguous [{x.shape[-1]}], the row length of x")
    key = checked_key(dropout, key, x)
    return to_rows(x), bias, to_rows(residual), weight, layer_norm_bias, key, epsilon, dropout, site


def add_pre_layer_norm(
    x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, layer_norm_bias: Tensor, epsilon: float = 1e-12,
    dropout: float = 0.0, key: Tensor | None = None, site: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Pre-LN residual add + LayerNorm: s = residual + dropout(x + bias), y = LN(s); returns (y, s).

    Args:
        x, residual: [..., H], both fp32, bf16 or fp16 (fp64 for tests); any H up to about 8192. The leading dimensions
            are flattened to the T rows of the dropout mask.
        bias, weight, layer_norm_bias: [H], any float dtype; gradients follow the main_grad rule.
        key: int64 [2] on the device, the seed and the index of the global micro-batch; read when the kernel runs.
        site: number of this dropout in the model, so that no two share a mask.

    Raises:
        ValueError: x is on the CPU, shapes or dtypes disagree, dropout is not in [0, 1), or it has no key.
    """
    inputs = _checked("add_pre_layer_norm", x, bias, residual, weight, layer_norm_bias, epsilon, dropout, key, site)
    y, total, *_ = forward(*inputs)
    return from_rows(y, x), from_rows(total, x)


def add_post_layer_norm(
    x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, layer_norm_bias: Tensor, epsilon: float = 1e-12,
    dropout: float = 0.0, key: Tensor | None = None, site: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Post-LN residual add + LayerNorm: y = LN(residual + dropout(x + bias)); returns y twice, sharing memory.

    One y is the input of the next branch, the other the residual; backward adds their two gradients itself. Arguments
    and errors as in `add_pre_layer_norm`.
    """
    inputs = _checked("add_post_layer_norm", x, bias, residual, weight, layer_norm_bias, epsilon, dropout, key, site)
    y, same = _AddPostLayerNorm.apply(*inputs) if torch.is_grad_enabled() else forward_alone(*inputs)[:1] * 2
    return from_rows(y, x), from_rows(same, x)


def add_layer_norm(
    x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, layer_norm_bias: Tensor, epsilon: float = 1e-12,
    dropout: float = 0.0, key: Tensor | None = None, site: int = 0,
) -> Tensor:  # fmt: skip
    """LN(residual + dropout(x + bias)) -> [..., H]; arguments and errors as in `add_pre_layer_norm`."""
    inputs = _checked("add_layer_norm", x, bias, residual, weight, layer_norm_bias, epsilon, dropout, key, site)
    return from_rows(forward(*inputs)[0], x)
