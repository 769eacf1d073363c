"""Feed-forward layer gelu(x W1' + b1) W2' with the elementwise work in the epilogues of the products.

Forward: the first product adds b1 and writes z and h = gelu(z) from its accumulator; the second is a library product
without bias, which the next op adds. Backward: the epilogue of the product grad W2 reads z, computes grad_z, writes h
again for the gradient of W2, and sums the columns of grad_z per tile for the gradient of b1. Saved for backward: x and
z, 5 units of T x H, where eager saves x, z and h, 9 units. Operands are loaded through pointers or TMA (host
descriptors; device descriptors need global scratch and can dangle under CUDA graphs, Triton #9259). The baseline is the
library's product followed by an elementwise pass; `choose` selects among the three.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import gelu
from .arguments import cdiv, check_device, from_rows, to_rows
from .calls import Call
from .cost import Cost, costs, size_of
from .eager import differentiable, direct
from .gelu import ACTIVATIONS, activate_with_slope
from .main_grad import weight_gradient
from .partial_sums import store_partial, vector_gradients
from .pending_sums import pending
from .tile_access import load_tile, split_columns, store_tile, tile_origin
from .tiles import Tile, choose


@triton.jit(do_not_specialize=["n_rows"])
def _linear_gelu_kernel(
    x, weight, bias_ptr, z, h, n_rows, N_COLS: tl.constexpr, DEPTH: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, STEP: tl.constexpr, TMA: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    element: tl.constexpr = x.dtype if TMA else x.dtype.element_ty
    row, col = tile_origin(n_rows, N_COLS, ROWS, COLS)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, DEPTH, STEP):
        a = load_tile(x, row, start, n_rows, DEPTH, ROWS, STEP, DEPTH % STEP == 0, TMA)
        b = load_tile(weight, col, start, N_COLS, DEPTH, COLS, STEP, DEPTH % STEP == 0, TMA)
        total = tl.dot(a, b.T, total, input_precision="ieee")
    PART: tl.constexpr = COLS // 4
    parts = split_columns(total, ROWS, COLS)
    for i in tl.static_range(4):
        _forward_epilogue(parts[i], bias_ptr, z, h, row, col + i * PART, n_rows, element, N_COLS, PART, TMA, ACTIVATION)


@triton.jit
def _forward_epilogue(
    product, bias_ptr, z, h, row, col, n_rows, element: tl.constexpr,
    N_COLS: tl.constexpr, PART: tl.constexpr, TMA: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    cols = col + tl.arange(0, PART)
    bias = tl.load(bias_ptr + cols, cols < N_COLS, other=0.0).to(tl.float32)
    stored = (product + bias[None, :]).to(element)
    # gelu of z as stored, which is what backward sees.
    value, _slope = activate_with_slope(stored.to(tl.float32), ACTIVATION)
    store_tile(z, stored, row, col, n_rows, N_COLS, TMA)
    store_tile(h, value.to(element), row, col, n_rows, N_COLS, TMA)


@triton.jit(do_not_specialize=["n_rows"])
def _gelu_linear_backward_kernel(
    grad, weight, z, grad_z, h, partial_ptr, n_rows, N_COLS: tl.constexpr, DEPTH: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, STEP: tl.constexpr, TMA: tl.constexpr, ACTIVATION: tl.constexpr,
    ADDS: tl.constexpr,
):  # fmt: skip
    row, col = tile_origin(n_rows, N_COLS, ROWS, COLS)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, DEPTH, STEP):
        a = load_tile(grad, row, start, n_rows, DEPTH, ROWS, STEP, DEPTH % STEP == 0, TMA)
        b = load_tile(weight, start, col, DEPTH, N_COLS, STEP, COLS, N_COLS % COLS == 0, TMA)
        total = tl.dot(a, b, total, input_precision="ieee")
    PART: tl.constexpr = COLS // 4
    parts = split_columns(total, ROWS, COLS)
    partial_ptr += (row // ROWS).to(tl.int64) * N_COLS
    for i in tl.static_range(4):
        _backward_epilogue(
            parts[i], z, grad_z, h, partial_ptr, row, col + i * PART, n_rows, N_COLS, ROWS, PART, TMA, ACTIVATION, ADDS
        )


@triton.jit
def _backward_epilogue(
    grad_h, z, grad_z, h, partial_ptr, row, col, n_rows,
    N_COLS: tl.constexpr, ROWS: tl.constexpr, PART: tl.constexpr, TMA: tl.constexpr, ACTIVATION: tl.constexpr,
    ADDS: tl.constexpr,
):  # fmt: skip
    stored = load_tile(z, row, col, n_rows, N_COLS, ROWS, PART, N_COLS % (4 * PART) == 0, TMA)
    value, slope = activate_with_slope(stored.to(tl.float32), ACTIVATION)
    # Rows past the end repeat the last row (or are zero) and must not reach the bias gradient.
    grad = tl.where((row + tl.arange(0, ROWS) < n_rows)[:, None], grad_h * slope, 0.0)
    store_tile(h, value.to(stored.dtype), row, col, n_rows, N_COLS, TMA)
    store_tile(grad_z, grad.to(stored.dtype), row, col, n_rows, N_COLS, TMA)
    cols = col + tl.arange(0, PART)
    store_partial(partial_ptr + cols, tl.sum(grad, axis=0), cols < N_COLS, ADDS)


def _operand(matrix: Tensor, tile: Tile, rows: int, cols: int) -> Tensor | TensorDescriptor:
    return TensorDescriptor.from_tensor(matrix, [rows, cols]) if tile.tma else matrix


def _launch_options(tile: Tile) -> dict[str, int | bool]:
    return {"ROWS": tile.rows, "COLS": tile.cols, "STEP": tile.depth, "TMA": tile.tma,
            "num_warps": tile.num_warps, "num_stages": tile.num_stages}  # fmt: skip


def _linear_gelu(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str, implementation: str
) -> tuple[Tensor, Tensor]:
    """z = x [T, H] @ weight [F, H].T + bias [F], and gelu(z), both [T, F]."""
    (n_rows, depth), n_cols = x.shape, weight.shape[0]
    tile = choose("forward", implementation, n_rows, n_cols, depth, x)
    if tile is None or n_rows == 0:
        z = torch.nn.functional.linear(x, weight, bias.to(x.dtype))
        return z, gelu.gelu(z, activation)
    z, h = (torch.empty(n_rows, n_cols, dtype=x.dtype, device=x.device) for _ in range(2))
    part = tile.cols // 4
    with torch.cuda.device_of(x):
        _linear_gelu_kernel[(cdiv(n_rows, tile.rows) * cdiv(n_cols, tile.cols),)](
            _operand(x, tile, tile.rows, tile.depth), _operand(weight, tile, tile.cols, tile.depth), bias,
            _operand(z, tile, tile.rows, part), _operand(h, tile, tile.rows, part), n_rows,
            N_COLS=n_cols, DEPTH=depth, ACTIVATION=activation, **_launch_options(tile),
        )  # fmt: skip
    return z, h


@torch.library.custom_op("albert_fast::gelu_ffn", mutates_args=())
def _forward(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, activation: str, implementation: str
) -> tuple[Tensor, Tensor]:
    """Output [T, H], and z [T, F] for backward."""
    z, h = _linear_gelu(x.contiguous(), weight1, bias1, activation, implementation)
    return h @ weight2.t(), z


@_forward.register_fake
def _forward_fake(x, weight1, bias1, weight2, activation, implementation):
    return x.new_empty(x.shape[0], weight2.shape[0]), x.new_empty(x.shape[0], weight1.shape[0])


@costs("albert_fast::gelu_ffn")
def _forward_costs(x, weight1, bias1, weight2, activation, implementation):
    (n_rows, depth), n_cols = x.shape, weight1.shape[0]
    out, z = _forward_fake(x, weight1, bias1, weight2, activation, implementation)
    flops = 2 * n_rows * depth * n_cols
    first, second = size_of(x, weight1, bias1, z), Cost("library", size_of(z, weight2, out), flops, kind="product")
    if choose("forward", implementation, n_rows, n_cols, depth, x):
        return [Cost("_linear_gelu_kernel", first + size_of(z), flops, kind="product"), second]
    elementwise = Cost("_gelu_forward_kernel", 2 * size_of(z), least_bytes=size_of(z))  # a fused epilogue already has z
    return [Cost("library", first, flops, kind="product"), elementwise, second]


@torch.library.custom_op("albert_fast::gelu_ffn_backward", mutates_args=("sums",))
def _backward(
    grad: Tensor, weight2: Tensor, z: Tensor, activation: str, implementation: str, sums: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """grad [T, H], weight2 [H, F], z [T, F] -> grad_z, h [T, F] and partial sums [P, 1, F] of grad_z's columns.

    If `sums` holds the partial sums of an earlier use, the new ones are added to it and none are returned.
    """
    grad, (n_rows, depth), n_cols = grad.contiguous(), grad.shape, z.shape[1]
    tile = choose("backward", implementation, n_rows, n_cols, depth, grad)
    grad_z, h, partials = _backward_fake(grad, weight2, z, activation, implementation, sums)
    written = partials if sums is None else sums
    if tile is None or n_rows == 0:
        return *gelu.gelu_backward(grad @ weight2, z, activation, written, sums is not None), partials
    part = tile.cols // 4
    with torch.cuda.device_of(grad):
        _gelu_linear_backward_kernel[(written.shape[0] * cdiv(n_cols, tile.cols),)](
            _operand(grad, tile, tile.rows, tile.depth), _operand(weight2, tile, tile.depth, tile.cols),
            _operand(z, tile, tile.rows, part), _operand(grad_z, tile, tile.rows, part),
            _operand(h, tile, tile.rows, part), written, n_rows,
            N_COLS=n_cols, DEPTH=depth, ACTIVATION=activation, ADDS=sums is not None, **_launch_options(tile),
        )  # fmt: skip
    return grad_z, h, partials


@_backward.register_fake
def _backward_fake(grad, weight2, z, activation, implementation, sums):
    n_rows, n_cols = z.shape
    tile = choose("backward", implementation, n_rows, n_cols, grad.shape[1], grad)
    rows = tile.rows if tile else gelu.rows_per_chunk(n_rows, n_cols)
    chunks = cdiv(n_rows, rows) if sums is None else 0
    acc_dtype = torch.promote_types(z.dtype, torch.float32)
    return torch.empty_like(z), torch.empty_like(z), z.new_empty(chunks, 1, n_cols, dtype=acc_dtype)


@costs("albert_fast::gelu_ffn_backward")
def _backward_costs(grad, weight2, z, activation, implementation, sums):
    (n_rows, depth), n_cols = grad.shape, z.shape[1]
    grad_z, h, partials = _backward_fake(grad, weight2, z, activation, implementation, sums)
    partials = size_of(partials, sums, sums)
    flops, operands = 2 * n_rows * depth * n_cols, size_of(grad, weight2)
    least = size_of(z, grad_z, h)
    if choose("backward", implementation, n_rows, n_cols, depth, grad):
        moved = operands + least + partials
        return [Cost("_gelu_linear_backward_kernel", moved, flops, kind="product", least_bytes=operands + least)]
    elementwise = Cost("_gelu_backward_kernel", least + size_of(z) + partials, least_bytes=least)
    return [Cost("library", operands + size_of(z), flops, kind="product", least_bytes=operands), elementwise]


backward = direct(_backward)


def _save_for_backward(ctx, inputs, output):
    x, weight1, bias1, weight2, ctx.activation, ctx.implementation = inputs
    ctx.save_for_backward(x, output[1], weight1, weight2)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.bias_dtype = bias1.dtype
    ctx.main_grads = [getattr(parameter, "main_grad", None) for parameter in (weight1, bias1, weight2)]


def _differentiate(ctx, grad, _):
    if grad is None:
        return (None,) * 6
    x, z, weight1, weight2 = ctx.saved_tensors
    main_grad1, bias_main_grad, main_grad2 = ctx.main_grads
    needs_x, needs1, needs_bias, needs2 = ctx.needs_input_grad[:4]
    sums = pending([bias_main_grad], len(z)) if needs_bias else None
    grad_z, h, partials = backward(grad, weight2, z, ctx.activation, ctx.implementation, sums)
    grad_weight2 = weight_gradient(main_grad2, grad, h) if needs2 else None
    grad_weight1 = weight_gradient(main_grad1, grad_z, x) if needs1 else None
    grad_bias = None
    if needs_bias:
        (grad_bias,) = vector_gradients(partials, [bias_main_grad], [ctx.bias_dtype], len(z), sums)
    return grad_z @ weight1 if needs_x else None, grad_weight1, grad_bias, grad_weight2, None, None


forward = differentiable(_forward, _save_for_backward, _differentiate)


def calls(sizes, dtype, make):
    narrow, wide = (sizes.tokens, sizes.hidden), (sizes.tokens, sizes.intermediate)
    x, z, weight = make(*narrow, dtype=dtype), make(*wide, dtype=dtype), make(wide[1], narrow[1], dtype=dtype)
    down, bias = make(narrow[1], wide[1], dtype=dtype), make(wide[1], dtype=dtype)
    ways = ("auto",) if dtype == torch.float32 else ("auto", "pointer")  # see tiles.py
    for activation in ("gelu", "gelu_new", "relu"):
        for implementation in ways:
            yield Call(_forward, (x, weight, bias, down, activation, implementation))
            arguments = x, down, z, activation, implementation
            yield Call(_backward, (*arguments, None))
        partials = _backward_fake(*arguments, None)[2]
        yield Call(_backward, (*arguments, make(*partials.shape, dtype=partials.dtype)))


def gelu_ffn(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, activation: str = "gelu", implementation: str = "auto"
) -> Tensor:
    """gelu(x @ weight1.T + bias1) @ weight2.T -> [..., H]; the second bias is left to the next op.

    Args:
        x [..., H], weight1 [F, H], weight2 [H, F]: the same dtype, fp32, bf16 or fp16; bias1 [F]: any float dtype.
            Gradients of the three parameters follow the main_grad rule.
        activation: gelu (erf), gelu_new (tanh) or relu.
        implementation: auto, library, pointer or tma; see `choose`.

    Raises:
        ValueError: x is on the CPU, shapes or dtypes disagree, or a name is unknown.
    """
    check_device("gelu_ffn", x)
    shapes = (bias1.dim(), weight1.shape, weight2.shape[1:])
    if x.dim() == 0 or shapes != (1, bias1.shape + x.shape[-1:], bias1.shape):
        raise ValueError(
            f"x {list(x.shape)}, weight1 {list(weight1.shape)}, bias1 {list(bias1.shape)} and weight2 "
            f"{list(weight2.shape)} must be [..., H], [F, H], [F] and [H, F]"
        )
    if not x.dtype == weight1.dtype == weight2.dtype:
        raise ValueError(f"x {x.dtype}, weight1 {weight1.dtype} and weight2 {weight2.dtype} must be of one dtype")
    if activation not in ACTIVATIONS or implementation not in ("auto", "library", "pointer", "tma"):
        raise ValueError(f"activation={activation!r}, implementation={implementation!r}: one is unknown")
    return from_rows(forward(to_rows(x), weight1, bias1, weight2, activation, implementation)[0], x)
