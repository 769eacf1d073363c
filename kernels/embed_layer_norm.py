"""Sum of embeddings, LayerNorm and dropout in one pass per direction: dropout(LN(word + position + type)).

Forward gathers the rows of the two small tables, which stay in L2, and writes only y; backward gathers them again and
recomputes the mask, so neither the sum nor the mask is saved. Statistics are fp32.
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
from .partial_sums import vector_gradients
from .philox import dropout_arguments, dropout_multiplier
from .row_sums import table_gradient
from .rows import chunk_rows, launch_options, register_candidates, row_tile, statistics

register_candidates("embed_layer_norm")


@triton.jit
def _gather_sum(
    word_ptr, position_ids_ptr, type_ids_ptr, position_ptr, type_ptr, rows, row_mask, cols, mask,
    acc_dtype: tl.constexpr, N_COLS: tl.constexpr,
):  # fmt: skip
    position = tl.load(position_ids_ptr + rows, row_mask, other=0).to(tl.int64)[:, None] * N_COLS
    token_type = tl.load(type_ids_ptr + rows, row_mask, other=0).to(tl.int64)[:, None] * N_COLS
    value = tl.load(word_ptr + rows.to(tl.int64)[:, None] * N_COLS + cols[None, :], mask, other=0.0).to(acc_dtype)
    value += tl.load(position_ptr + position + cols[None, :], mask, other=0.0).to(acc_dtype)
    return value + tl.load(type_ptr + token_type + cols[None, :], mask, other=0.0).to(acc_dtype)


@triton.jit(do_not_specialize=["n_rows", "site", "threshold"])
def _embed_layer_norm_forward_kernel(
    word_ptr, position_ids_ptr, type_ids_ptr, position_ptr, type_ptr, weight_ptr, layer_norm_bias_ptr, key_ptr,
    y_ptr, mean_ptr, rstd_ptr, n_rows, epsilon, site, threshold, scale,
    N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    acc_dtype: tl.constexpr = mean_ptr.dtype.element_ty
    cols = tl.arange(0, BLOCK_COLS)
    col_mask = cols < N_COLS
    rows, row_mask, offsets, mask = row_tile(tl.program_id(0) * BLOCK_ROWS, n_rows, cols, N_COLS, BLOCK_ROWS)
    weight = tl.load(weight_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    layer_norm_bias = tl.load(layer_norm_bias_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    value = _gather_sum(word_ptr, position_ids_ptr, type_ids_ptr, position_ptr, type_ptr, rows, row_mask, cols, mask,
                        acc_dtype, N_COLS)  # fmt: skip
    y = normalise(value, col_mask, mean_ptr, rstd_ptr, rows, row_mask, epsilon, N_COLS) * weight + layer_norm_bias
    if HAS_DROPOUT:
        y *= dropout_multiplier(key_ptr, site, rows, threshold, scale, BLOCK_ROWS, BLOCK_COLS)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["n_rows", "rows_per_chunk", "site", "threshold"])
def _embed_layer_norm_backward_kernel(
    grad_ptr, word_ptr, position_ids_ptr, type_ids_ptr, position_ptr, type_ptr, weight_ptr, key_ptr, mean_ptr, rstd_ptr,
    grad_sum_ptr, partial_ptr, n_rows, rows_per_chunk, site, threshold, scale,
    N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    acc_dtype: tl.constexpr = mean_ptr.dtype.element_ty
    chunk = tl.program_id(0)
    cols = tl.arange(0, BLOCK_COLS)
    col_mask = cols < N_COLS
    weight = tl.load(weight_ptr + cols, col_mask, other=0.0).to(acc_dtype)[None, :]
    grad_weight = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    grad_layer_norm_bias = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    first = chunk * rows_per_chunk
    last = tl.minimum(first + rows_per_chunk, n_rows)
    for start in range(first, last, BLOCK_ROWS):
        rows, row_mask, offsets, mask = row_tile(start, last, cols, N_COLS, BLOCK_ROWS)
        grad = tl.load(grad_ptr + offsets, mask, other=0.0).to(acc_dtype)
        if HAS_DROPOUT:
            grad *= dropout_multiplier(key_ptr, site, rows, threshold, scale, BLOCK_ROWS, BLOCK_COLS)
        value = _gather_sum(word_ptr, position_ids_ptr, type_ids_ptr, position_ptr, type_ptr, rows, row_mask, cols,
                            mask, acc_dtype, N_COLS)  # fmt: skip
        grad_sum, normalised = normalise_backward(grad, value, weight, mean_ptr, rstd_ptr, rows, row_mask, N_COLS)
        tl.store(grad_sum_ptr + offsets, grad_sum.to(grad_sum_ptr.dtype.element_ty), mask)
        grad_weight += grad * normalised
        grad_layer_norm_bias += grad
    partial_ptr += chunk.to(tl.int64) * 2 * N_COLS
    tl.store(partial_ptr + cols, tl.sum(grad_weight, axis=0), col_mask)
    tl.store(partial_ptr + N_COLS + cols, tl.sum(grad_layer_norm_bias, axis=0), col_mask)


@torch.library.custom_op("albert_fast::embed_layer_norm", mutates_args=())
def _forward(
    word: Tensor, position_ids: Tensor, type_ids: Tensor, positions: Tensor, types: Tensor, weight: Tensor,
    layer_norm_bias: Tensor, key: Tensor | None, epsilon: float, dropout: float, site: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y [T, H]; mean and 1 / standard deviation [T]."""
    word, (n_rows, n_cols) = word.contiguous(), word.shape
    y, mean, rstd = _forward_fake(word)
    options = launch_options("embed_layer_norm_forward", word)
    if n_rows:
        with torch.cuda.device_of(word):
            _embed_layer_norm_forward_kernel[(cdiv(n_rows, options["BLOCK_ROWS"]),)](
                word, position_ids, type_ids, positions, types, weight, layer_norm_bias, key, y, mean, rstd,
                n_rows, epsilon, site, *dropout_arguments(dropout),
                N_COLS=n_cols, HAS_DROPOUT=dropout > 0, **options,
            )  # fmt: skip
    return y, mean, rstd


@_forward.register_fake
def _forward_fake(word, *_):
    return torch.empty_like(word, memory_format=torch.contiguous_format), *statistics(word)


def _table_bytes(word, tables):
    """Upper bound on the table bytes read: the tables stay in L2."""
    return sum(min(size_of(table), size_of(word)) for table in tables)


@costs("albert_fast::embed_layer_norm")
def _forward_costs(word, position_ids, type_ids, positions, types, weight, layer_norm_bias, key, _e, dropout, _s):
    moved = size_of(word, position_ids, type_ids, weight, layer_norm_bias, key if dropout else None)
    moved += _table_bytes(word, (positions, types)) + size_of(*_forward_fake(word))
    return [Cost("_embed_layer_norm_forward_kernel", moved, kind="layer_norm")]


@torch.library.custom_op("albert_fast::embed_layer_norm_backward", mutates_args=())
def _backward(
    grad: Tensor, word: Tensor, position_ids: Tensor, type_ids: Tensor, positions: Tensor, types: Tensor,
    weight: Tensor, mean: Tensor, rstd: Tensor, key: Tensor | None, dropout: float, site: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient [T, H] of the sum, and partial sums [P, 2, H] of the gradients of LayerNorm's parameters."""
    grad, word, (n_rows, n_cols) = grad.contiguous(), word.contiguous(), word.shape
    grad_sum, partials = _backward_fake(grad, word, None, None, None, None, weight, mean)
    options = launch_options("embed_layer_norm_backward", word)
    if n_rows:
        with torch.cuda.device_of(word):
            _embed_layer_norm_backward_kernel[(partials.shape[0],)](
                grad, word, position_ids, type_ids, positions, types, weight, key, mean, rstd, grad_sum, partials,
                n_rows, chunk_rows("embed_layer_norm_backward", word), site, *dropout_arguments(dropout),
                N_COLS=n_cols, HAS_DROPOUT=dropout > 0, **options,
            )  # fmt: skip
    return grad_sum, partials


@_backward.register_fake
def _backward_fake(grad, word, position_ids, type_ids, positions, types, weight, mean, *_):
    n_rows, n_cols = word.shape
    grad_sum = torch.empty_like(word, memory_format=torch.contiguous_format)
    return grad_sum, mean.new_empty(cdiv(n_rows, chunk_rows("embed_layer_norm_backward", word)), 2, n_cols)


@costs("albert_fast::embed_layer_norm_backward")
def _backward_costs(grad, word, position_ids, type_ids, positions, types, weight, mean, rstd, key, dropout, site):
    grad_sum, partials = _backward_fake(grad, word, position_ids, type_ids, positions, types, weight, mean)
    least = size_of(grad, word, position_ids, type_ids, weight, mean, rstd, key if dropout else None, grad_sum)
    least += _table_bytes(word, (positions, types))
    name = "_embed_layer_norm_backward_kernel"
    return [Cost(name, least + size_of(partials), kind="layer_norm", least_bytes=least)]


def calls(sizes, dtype, make):
    shape = sizes.tokens, sizes.hidden
    word, grad, ids = make(*shape, dtype=dtype), make(*shape, dtype=dtype), make(shape[0], dtype=torch.int32)
    tables = make(1, shape[1], dtype=dtype), make(1, shape[1], dtype=dtype)  # one row, all of which is read
    weight, bias = (make(shape[1], dtype=dtype) for _ in range(2))
    mean, rstd = (make(shape[0], dtype=torch.promote_types(dtype, torch.float32)) for _ in range(2))
    inputs = (word, ids, make(shape[0], dtype=torch.int32), *tables, weight)
    for dropout, key in ((0.0, None), (0.1, make(2, dtype=torch.int64))):
        yield Call(_forward, (*inputs, bias, key, 1e-12, dropout, 0))
        yield Call(_backward, (grad, *inputs, mean, rstd, key, dropout, 0))


backward = direct(_backward)


def _save_for_backward(ctx, inputs, output):
    *saved, layer_norm_bias, key, _, ctx.dropout, ctx.site = inputs
    ctx.save_for_backward(*saved, *output[1:], key)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.dtypes = [saved[5].dtype, layer_norm_bias.dtype]
    ctx.main_grads = [getattr(p, "main_grad", None) for p in (saved[3], saved[4], saved[5], layer_norm_bias)]


def _differentiate(ctx, grad, *_):
    if grad is None:
        return (None,) * 11
    _, position_ids, type_ids, positions, types, *_ = saved = ctx.saved_tensors
    grad_sum, partials = backward(grad, *saved, ctx.dropout, ctx.site)
    grad_positions = table_gradient(ctx.main_grads[0], position_ids, grad_sum, positions)
    grad_types = table_gradient(ctx.main_grads[1], type_ids, grad_sum, types)
    vectors = vector_gradients(partials, ctx.main_grads[2:], ctx.dtypes)
    return grad_sum, None, None, grad_positions, grad_types, *vectors, None, None, None, None


forward = differentiable(_forward, _save_for_backward, _differentiate)


def embed_layer_norm(
    word: Tensor, position_ids: Tensor, token_type_ids: Tensor, position_weight: Tensor, token_type_weight: Tensor,
    weight: Tensor, layer_norm_bias: Tensor, epsilon: float = 1e-12, dropout: float = 0.0, key: Tensor | None = None,
    site: int = 0,
) -> Tensor:  # fmt: skip
    """dropout(LN(word [..., H] + position_weight[position_ids] + token_type_weight[token_type_ids])) -> [..., H].

    ids: int32 or int64 [...], indices into the tables [S, H] and [types, H]. The leading dimensions are flattened to
    the T rows of the dropout mask. Gradients of the four parameters follow the main_grad rule.

    Raises:
        ValueError: word is on the CPU, shapes disagree, dropout is not in [0, 1), or it has no key.
    """
    check_device("embed_layer_norm", word)
    if not word.shape[:-1] == position_ids.shape == token_type_ids.shape:
        shapes = [list(ids.shape) for ids in (position_ids, token_type_ids)]
        raise ValueError(f"word {list(word.shape)} must be [..., H], and the ids {shapes} its leading dimensions")
    parameters = position_weight, token_type_weight, weight, layer_norm_bias
    if any(p.shape[-1] != word.shape[-1] or not p.is_contiguous() for p in parameters):
        shapes = [list(p.shape) for p in parameters]
        raise ValueError(f"parameters {shapes} must be contiguous, of {word.shape[-1]} columns")
    ids = (each.reshape(-1).contiguous() for each in (position_ids, token_type_ids))
    key = checked_key(dropout, key, word)
    return from_rows(forward(to_rows(word), *ids, *parameters, key, epsilon, dropout, site)[0], word)
