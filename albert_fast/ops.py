"""Every fused op once in plain PyTorch: the reference that tests trust, and what runs where no kernel does.

Arithmetic is fp32 (or fp64) inside, whatever the storage dtype. One rule for gradients of parameters, Megatron's: where
a parameter has `main_grad` (its own shape, fp32 or wider) backward accumulates into it in that precision and returns
None; elsewhere it returns an ordinary gradient. So the L uses of a shared weight never meet in bf16.

Dimension letters: T tokens (packed), H hidden, F feed-forward, V vocabulary, E embedding, P predictions, N heads,
D head size, B sequences.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from albert_fast.attention import varlen_attention
from albert_fast.kernels.main_grad import accumulate_product
from albert_fast.options import UserError

# ---------------------------------------------------------------------------------------------- gradients of parameters


def wide(x: Tensor) -> Tensor:
    """x in the precision of the arithmetic: fp32, or fp64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


class _WideParameter(torch.autograd.Function):
    """A parameter as fp32 whose gradient, fp32 too, goes into main_grad where there is one."""

    @staticmethod
    def forward(ctx, parameter: Tensor) -> Tensor:
        ctx.main_grad, ctx.dtype = getattr(parameter, "main_grad", None), parameter.dtype
        return wide(parameter).view_as(parameter)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor | None:
        if ctx.main_grad is None:
            return grad.to(ctx.dtype)
        ctx.main_grad.add_(grad)
        return None


def wide_parameter(parameter: Tensor) -> Tensor:
    """`parameter` in fp32 (fp64 stays), differentiable under the main_grad rule: for vectors, whose sums are cheap."""
    return _WideParameter.apply(parameter)


def rows_of(parameter: Tensor | None, rows: slice) -> Tensor | None:
    """Some rows of a parameter, differentiable under the main_grad rule."""
    if parameter is None:
        return None
    part = parameter[rows]
    if (main_grad := getattr(parameter, "main_grad", None)) is not None:
        part.main_grad = main_grad[rows]  # type: ignore[attr-defined]
    return part


# Asked at import: torch.compile cannot trace the question.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [T, K] @ weight [M, K].T + bias [M] -> [T, M], by oneDNN for fp32 on CPU.

    oneDNN's AVX-512 code runs about 1.1 times as fast as the BLAS behind F.linear on AMD's processors.
    """
    compiling = torch.compiler.is_compiling()  # inductor brings its own oneDNN, and cannot lower this call
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[0] > 0 and _HAS_ONEDNN and not compiling:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.transposed = transposed
        ctx.main_grad, ctx.bias_dtype = getattr(weight, "main_grad", None), None if bias is None else bias.dtype
        ctx.bias_main_grad = getattr(bias, "main_grad", None)
        return product(x, weight.t() if transposed else weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad_weight = grad_bias = None
        left, right = (x, grad) if ctx.transposed else (grad, x)
        if ctx.main_grad is not None:
            accumulate_product(ctx.main_grad, left, right)
        elif ctx.needs_input_grad[1]:
            grad_weight = left.t() @ right
        if ctx.bias_dtype is not None:
            total = wide(grad).sum(0)
            if ctx.bias_main_grad is not None:
                ctx.bias_main_grad.add_(total)
            else:
                grad_bias = total.to(ctx.bias_dtype)
        grad_x = product(grad, weight if ctx.transposed else weight.t()) if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight, grad_bias, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False) -> Tensor:
    """x [T, K] @ weight [M, K].T + bias [M] -> [T, M], under the main_grad rule; transposed: weight is [K, M]."""
    return _Linear.apply(x, weight, bias, transposed)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.main_grad, ctx.rows, ctx.dtype = getattr(weight, "main_grad", None), weight.shape[0], weight.dtype
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (ids,) = ctx.saved_tensors
        grad, total = wide(grad), ctx.main_grad
        if grad.is_cuda:
            # It sorts the ids and sums the rows of each in parts, always the same. index_add_ would add with atomics;
            # index_put_ would take the 16,384 rows of one token type one after another.
            rows = torch.ops.aten.embedding_dense_backward(grad.contiguous(), ids, ctx.rows, -1, False)
            total = rows if total is None else total.add_(rows)
        else:
            total = grad.new_zeros(ctx.rows, grad.shape[1]) if total is None else total
            total.index_add_(0, ids, grad)
        return None, total.to(ctx.dtype) if ctx.main_grad is None else None


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """weight [V, E] at ids [T] (int32 or int64) -> [T, E], under the main_grad rule; its backward is deterministic."""
    return _Embedding.apply(ids, weight)


# ------------------------------------------------------------------------------------------------------------- dropout


def _philox(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") on int64 holding 32 bits."""
    low = 0xFFFFFFFF

    def multiply(x: Tensor, constant: int) -> tuple[Tensor, Tensor]:
        # A 64-bit product would overflow int64: take it in two halves of the constant.
        upper, lower = (constant >> 16) * x, (constant & 0xFFFF) * x
        carried = upper + (lower >> 16)
        return carried >> 16, ((carried << 16) | (lower & 0xFFFF)) & low

    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = multiply(c0, 0xD2511F53)
        high1, low1 = multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return [c0, c1, c2, c3]


def dropout_keep(key: Tensor, site: int, rows: int, columns: int, probability: float) -> Tensor:
    """Which of [rows, columns] elements survive: bool, a pure function of (seed, micro-batch, site, row, column).

    `key` is int64 [2] on the device: the seed and the global micro-batch. One Philox call serves eight columns, 16
    bits each, so a probability is rounded to 1/65536.
    """
    low = 0xFFFFFFFF
    row = torch.arange(rows, device=key.device)[:, None]
    column = torch.arange(math.ceil(columns / 8), device=key.device)[None, :]
    seed, micro_batch = key[0], key[1]
    counter = [column.expand(rows, -1), row.expand(-1, column.shape[1]), torch.full_like(row, site), micro_batch & low]
    words = torch.stack(_philox(counter, [seed & low, (seed >> 32) & low]), dim=-1)
    halves = torch.stack((words & 0xFFFF, words >> 16), dim=-1).reshape(rows, -1)[:, :columns]
    return halves >= dropout_threshold(probability)


def dropout_threshold(probability: float) -> int:
    """The number of 16-bit values below which an element is dropped."""
    return round(probability * 65536)


def dropout(x: Tensor, probability: float, key: Tensor | None, site: int) -> Tensor:
    """x [T, H] with elements zeroed by `dropout_keep` and the others scaled by 1 / (1 - probability)."""
    if probability == 0.0:
        return x
    if key is None:
        raise UserError(f"dropout={probability} needs a key: an int64 tensor [seed, micro-batch] on the device")
    keep = dropout_keep(key, site, x.shape[0], x.shape[1], probability)
    # A product, as in PyTorch, and not a choice: 0 * inf is NaN, so the mask cannot hide a broken activation.
    return x * (keep.to(x.dtype) / (1.0 - probability))


# ----------------------------------------------------------------------------------------------------------- LayerNorm


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-12) -> Tensor:
    """LayerNorm (Ba et al. 2016) over the last axis of x [T, H], statistics in fp32."""
    return F.layer_norm(wide(x), weight.shape, wide_parameter(weight), wide_parameter(bias), epsilon).to(x.dtype)


def add_pre_layer_norm(
    x: Tensor,
    bias: Tensor,
    residual: Tensor,
    weight: Tensor,
    layer_norm_bias: Tensor,
    epsilon: float = 1e-12,
    dropout: float = 0.0,
    key: Tensor | None = None,
    site: int = 0,
) -> tuple[Tensor, Tensor]:
    """The pre-LN join: s = residual + dropout(x + bias), y = LN(s); returns (y, s), both [T, H].

    The statistics are those of s as stored. `bias` [H] is the bias of the product that made x.
    """
    total = add_residual(x, bias, residual, dropout, key, site)
    return layer_norm(total, weight, layer_norm_bias, epsilon), total


def add_layer_norm(
    x: Tensor,
    bias: Tensor,
    residual: Tensor,
    weight: Tensor,
    layer_norm_bias: Tensor,
    epsilon: float = 1e-12,
    dropout: float = 0.0,
    key: Tensor | None = None,
    site: int = 0,
) -> Tensor:
    """The post-LN join: LN(residual + dropout(x + bias)) -> [T, H]; see `add_pre_layer_norm`."""
    return add_pre_layer_norm(x, bias, residual, weight, layer_norm_bias, epsilon, dropout, key, site)[0]


def add_residual(
    x: Tensor, bias: Tensor, residual: Tensor, probability: float = 0.0, key: Tensor | None = None, site: int = 0
) -> Tensor:
    """residual + dropout(x + bias) -> [T, H], rounded once."""
    joined = dropout(wide(x) + wide_parameter(bias), probability, key, site)
    return joined.add_(wide(residual)).to(x.dtype)


# -------------------------------------------------------------------------------------------------------- feed-forward


def gelu(x: Tensor, activation: str = "gelu") -> Tensor:
    """GELU (Hendrycks and Gimpel 2016): `gelu` by erf, `gelu_new` by its tanh form."""
    return F.gelu(x, approximate="tanh" if activation == "gelu_new" else "none")


def gelu_ffn(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, activation: str = "gelu") -> Tensor:
    """gelu(x [T, H] @ weight1 [F, H].T + bias1 [F]) @ weight2 [H, F].T -> [T, H]; its bias is the next op's."""
    return linear(gelu(linear(x, weight1, bias1), activation), weight2)


# ------------------------------------------------------------------------------------------------------------ MLM loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are made in forward, chunk by chunk, so that no [P, V] outlives its chunk; backward scales them."""

    @staticmethod
    def forward(ctx, x, weight, bias, targets, row_weights, chunk, grad_enabled):
        ctx.weight, ctx.bias = weight, bias
        dtype = torch.promote_types(x.dtype, torch.float32)
        total = row_weights.sum()
        row_scale = row_weights / torch.where(total > 0, total, 1.0)
        loss, accuracy = x.new_zeros((), dtype=dtype), x.new_zeros((), dtype=dtype)
        if needs_grad := grad_enabled and any(ctx.needs_input_grad[:3]):
            grad_x = torch.empty_like(x)
            grad_weight, grad_bias = (torch.zeros_like(p, dtype=dtype) for p in (weight, bias))
        for start in range(0, x.shape[0], chunk):
            rows = slice(start, start + chunk)
            target, scale = targets[rows].long()[:, None], row_scale[rows].to(dtype)[:, None]
            logits = wide(product(x[rows], weight, bias))
            largest, likeliest = logits.max(1, keepdim=True)
            of_target = logits.gather(1, target)
            # [P, V] is all that this op moves, so each pass over it counts. In place: the softmax kernels read an
            # element last where they write it.
            softmax = torch.softmax(logits, 1, out=logits)
            log_sum_exp = largest - softmax.gather(1, likeliest).log()
            loss += ((log_sum_exp - of_target) * scale).sum()
            accuracy += ((likeliest == target) * scale).sum()
            if needs_grad:
                grad = softmax.scatter_add_(1, target, torch.full_like(scale, -1))
                grad_bias += scale[:, 0] @ grad
                grad = grad.to(x.dtype)
                grad_x[rows] = product(grad, weight.t()) * scale
                accumulate_product(grad_weight, grad, (x[rows] * scale).to(x.dtype))
        if needs_grad:
            ctx.save_for_backward(grad_x, grad_weight, grad_bias)
        ctx.mark_non_differentiable(accuracy)
        return loss, accuracy

    @staticmethod
    def backward(ctx, grad_loss, _):
        grad_x, *grads = ctx.saved_tensors
        returned: list[Tensor | None] = []
        for parameter, grad in zip((ctx.weight, ctx.bias), grads, strict=True):
            if (main_grad := getattr(parameter, "main_grad", None)) is not None:
                main_grad.addcmul_(grad, grad_loss)
                returned.append(None)
            else:
                returned.append((grad * grad_loss).to(parameter.dtype))
        return (grad_x * grad_loss).to(grad_x.dtype), *returned, None, None, None, None


def logit_rows(device_type: str) -> int:
    """The rows of logits that exist at a time: few on CPU, whose caches are small."""
    return 256 if device_type == "cpu" else 4096


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, row_weights: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cross entropy of softmax(x [P, E] @ weight [V, E].T + bias [V]) at targets [P], averaged by row_weights [P].

    Returns (loss, accuracy), scalars in fp32; both are 0 where all weights are. Static shapes, no synchronisation;
    at most `chunk` rows of logits exist at a time (default: `logit_rows`).
    """
    chunk = chunk or logit_rows(x.device.type)
    # needs_input_grad says what could be differentiated, under no_grad too: evaluation must not pay for gradients.
    return _LinearCrossEntropy.apply(x, weight, bias, targets, row_weights, chunk, torch.is_grad_enabled())


# -------------------------------------------------------------------------------------------------------------- choice


@dataclass(frozen=True)
class Ops:
    """The implementations a model runs on; every field has the signature of its namesake above."""

    name: str = "torch"
    linear: Callable = linear
    embedding: Callable = embedding
    dropout: Callable = dropout
    layer_norm: Callable = layer_norm
    add_residual: Callable = add_residual
    add_layer_norm: Callable = add_layer_norm
    add_pre_layer_norm: Callable = add_pre_layer_norm
    gelu: Callable = gelu
    gelu_ffn: Callable = gelu_ffn
    linear_cross_entropy: Callable = linear_cross_entropy
    varlen_attention: Callable = varlen_attention


def _triton_ops() -> Ops:
    """The ops that have kernels, on them. Imported here, so that the others do not need Triton."""
    if not torch.cuda.is_available():
        if "triton" not in sys.modules and "TRITON_INTERPRET" not in os.environ:  # read once, at Triton's import
            os.environ["TRITON_INTERPRET"] = "1"
            warnings.warn("no GPU: Triton kernels are interpreted, slowly, with bf16 truncated", stacklevel=3)
        import triton

        if not triton.knobs.runtime.interpret:
            raise UserError("ops='triton' finds no GPU; use ops='torch', or set TRITON_INTERPRET=1 to interpret it")
    from albert_fast.kernels.add_layer_norm import add_layer_norm, add_pre_layer_norm
    from albert_fast.kernels.gelu_ffn import gelu_ffn

    return Ops("triton", add_layer_norm=add_layer_norm, add_pre_layer_norm=add_pre_layer_norm, gelu_ffn=gelu_ffn)


def get_ops(name: str = "auto") -> Ops:
    """The ops called `name`: torch, triton, or auto (triton where there is CUDA, torch elsewhere)."""
    if name == "auto":
        name = "triton" if torch.cuda.is_available() else "torch"
    if name == "torch":
        return Ops()
    if name == "triton":
        return _triton_ops()
    raise UserError(f"ops={name!r} is unknown; use torch, triton or auto")
