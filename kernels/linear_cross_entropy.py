"""Cross entropy of softmax(x W' + b) over the vocabulary, with the gradient written in place over the stored logits.

PyTorch copies the logits to fp32 and makes six passes over the copy. Here they stay in the dtype of the product: one
kernel reads each row once and computes its log-sum-exp online; a second reads it again, overwrites it with softmax -
one-hot, and sums the columns of the weighted gradient for the bias. So the logits are read twice and written once.
Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv 1805.02867.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import cdiv, check_device, to_rows
from .calls import Call
from .candidates import Candidate, Problem, candidates, chosen, problem_of
from .cost import Cost, costs, size_of
from .eager import direct
from .main_grad import accumulate_product, scaled_gradients
from .partial_sums import vector_gradients
from .rows import row_tile

ROWS_PER_PARTIAL = 64


@triton.jit
def _cross_entropy_rows_kernel(
    logits_ptr, target_ptr, log_sum_exp_ptr, loss_ptr, correct_ptr, N_COLS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    acc_dtype: tl.constexpr = loss_ptr.dtype.element_ty
    logits_ptr += row.to(tl.int64) * N_COLS
    target = tl.load(target_ptr + row).to(tl.int32)
    of_target = tl.load(logits_ptr + target).to(acc_dtype)
    largest = tl.full((), float("-inf"), acc_dtype)
    total = tl.zeros((), acc_dtype)
    better = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, N_COLS, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        value = tl.load(logits_ptr + cols, cols < N_COLS, other=float("-inf")).to(acc_dtype)
        larger = tl.maximum(largest, tl.max(value, axis=0))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(value - larger), axis=0)
        largest = larger
        # The first of equal logits wins, as in torch.max.
        better += ((value > of_target) | ((value == of_target) & (cols < target))).to(tl.int32)
    log_sum_exp = largest + tl.log(total)
    tl.store(log_sum_exp_ptr + row, log_sum_exp)
    tl.store(loss_ptr + row, log_sum_exp - of_target)
    tl.store(correct_ptr + row, (tl.sum(better, axis=0) == 0).to(acc_dtype))


@triton.jit(do_not_specialize=["n_rows"])
def _cross_entropy_gradient_kernel(
    logits_ptr, target_ptr, log_sum_exp_ptr, scale_ptr, partial_ptr, n_rows,
    N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    acc_dtype: tl.constexpr = partial_ptr.dtype.element_ty
    cols = tl.program_id(0) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    chunk = tl.program_id(1)
    col_mask = cols < N_COLS
    summed = tl.zeros((BLOCK_ROWS, BLOCK_COLS), acc_dtype)
    last = tl.minimum((chunk + 1) * CHUNK, n_rows)
    for start in range(chunk * CHUNK, last, BLOCK_ROWS):
        rows, row_mask, offsets, mask = row_tile(start, last, cols, N_COLS, BLOCK_ROWS)
        log_sum_exp = tl.load(log_sum_exp_ptr + rows, row_mask, other=0.0)[:, None]
        target = tl.load(target_ptr + rows, row_mask, other=-1).to(tl.int32)[:, None]
        scale = tl.load(scale_ptr + rows, row_mask, other=0.0)[:, None]
        value = tl.load(logits_ptr + offsets, mask, other=float("-inf")).to(acc_dtype)
        grad = tl.exp(value - log_sum_exp) - (cols[None, :] == target).to(acc_dtype)
        summed += grad * scale
        tl.store(logits_ptr + offsets, grad.to(logits_ptr.dtype.element_ty), mask)
    tl.store(partial_ptr + chunk.to(tl.int64) * N_COLS + cols, tl.sum(summed, axis=0), col_mask)


ROW_OPTIONS = {"BLOCK": 4096, "num_warps": 8}  # 16 logits per thread
GRADIENT_OPTIONS = {"BLOCK_ROWS": 4, "BLOCK_COLS": 512, "CHUNK": ROWS_PER_PARTIAL, "num_warps": 4}


@torch.library.custom_op("albert_fast::cross_entropy_", mutates_args=("logits",))
def _cross_entropy(
    logits: Tensor, targets: Tensor, scale: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, correctness of the argmax and log-sum-exp, each [P], and partial sums [C, 1, V] for the bias gradient.

    with_gradient: overwrite the logits [P, V] with softmax - one-hot, and return partial sums of it times scale [P];
    otherwise the logits stay and there are no partial sums.
    """
    n_rows, n_cols = logits.shape
    losses, correct, log_sum_exp, partials = _cross_entropy_fake(logits, targets, scale, with_gradient)
    if n_rows:
        with torch.cuda.device_of(logits):
            _cross_entropy_rows_kernel[(n_rows,)](
                logits, targets, log_sum_exp, losses, correct, N_COLS=n_cols, **ROW_OPTIONS
            )
            if with_gradient:
                grid = cdiv(n_cols, GRADIENT_OPTIONS["BLOCK_COLS"]), partials.shape[0]
                _cross_entropy_gradient_kernel[grid](
                    logits, targets, log_sum_exp, scale, partials, n_rows, N_COLS=n_cols, **GRADIENT_OPTIONS
                )
    return losses, correct, log_sum_exp, partials


@_cross_entropy.register_fake
def _cross_entropy_fake(logits, targets, scale, with_gradient):
    n_rows, n_cols = logits.shape
    losses = logits.new_empty(n_rows, dtype=torch.promote_types(logits.dtype, torch.float32))
    chunks = cdiv(n_rows, ROWS_PER_PARTIAL) if with_gradient else 0
    return losses, torch.empty_like(losses), torch.empty_like(losses), losses.new_empty(chunks, 1, n_cols)


@costs("albert_fast::cross_entropy_")
def _cross_entropy_costs(logits, targets, scale, with_gradient):
    *rows, partials = _cross_entropy_fake(logits, targets, scale, with_gradient)
    found = [Cost("_cross_entropy_rows_kernel", size_of(logits, targets, *rows))]
    if with_gradient:
        least = 2 * size_of(logits) + size_of(targets, scale, rows[2])
        found.append(Cost("_cross_entropy_gradient_kernel", least + size_of(partials), least_bytes=least))
    return found


def calls(sizes, dtype, make):
    predictions = sizes.predictions or max(1, sizes.tokens * 15 // 100)
    acc_dtype = torch.promote_types(dtype, torch.float32)
    for with_gradient in (False, True):
        logits, scale = make(predictions, sizes.vocabulary, dtype=dtype), make(predictions, dtype=acc_dtype)
        yield Call(_cross_entropy, (logits, make(predictions, dtype=torch.int32), scale, with_gradient))


cross_entropy = direct(_cross_entropy)


@candidates("linear_cross_entropy")
def _candidates(problem: Problem) -> list[Candidate]:
    reasons = {
        4096: "170 MB of bf16 logits: enough rows to fill a card, little memory",
        2048: "half the memory, and a larger share of the second read from L2",
        8192: "fewer launches and larger products",
    }
    return [Candidate(f"{rows} rows a chunk", {"chunk": rows}, reason) for rows, reason in reasons.items()]


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients chunk by chunk, so that no logits outlive their chunk; backward scales them."""

    @staticmethod
    def forward(ctx, x, weight, bias, targets, row_weights, chunk, grad_enabled):
        ctx.weight, ctx.bias = weight, bias
        dtype = torch.promote_types(x.dtype, torch.float32)
        total = row_weights.sum().clamp(
            min=torch.finfo(row_weights.dtype).tiny
        )  # so that the loss is 0 if all weights are
        scale = (row_weights / total).to(dtype)
        needs_grad = grad_enabled and any(ctx.needs_input_grad[:3])
        if needs_grad:
            grad_x, scaled = torch.empty_like(x), (x * scale[:, None]).to(x.dtype)
            grad_weight, grad_bias = (torch.zeros_like(p, dtype=dtype) for p in (weight, bias))
        parts = []
        for start in range(0, x.shape[0], chunk):
            rows = slice(start, start + chunk)
            logits = torch.nn.functional.linear(x[rows], weight, bias.to(x.dtype))
            made = cross_entropy(logits, targets[rows], scale[rows], needs_grad)
            parts.append(made[:2])
            if needs_grad:
                torch.mm(logits, weight, out=grad_x[rows])
                accumulate_product(grad_weight, logits, scaled[rows])
                vector_gradients(made[3], [grad_bias], [dtype])
        if needs_grad:
            ctx.save_for_backward(grad_x.mul_(scale[:, None]), grad_weight, grad_bias)
        if not parts:
            return scale.sum(), scale.sum()
        losses, correct = (torch.cat(same) if len(parts) > 1 else same[0] for same in zip(*parts, strict=True))
        accuracy = torch.dot(correct, scale)
        ctx.mark_non_differentiable(accuracy)
        ctx.set_materialize_grads(False)
        return torch.dot(losses, scale), accuracy

    @staticmethod
    def backward(ctx, grad_loss, _):
        if grad_loss is None:
            return (None,) * 7
        return *scaled_gradients(ctx, grad_loss), None, None, None, None


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, row_weights: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cross entropy of softmax(x [..., E] @ weight [V, E].T + bias [V]) at targets [...].

    Returns the means by row_weights [...] (loss, accuracy) as fp32 scalars, 0 if all weights are 0. Static shapes, no
    host synchronisation; at most `chunk` rows of logits exist at a time, in x's dtype. Gradients follow the main_grad
    rule.

    Raises:
        ValueError: x is on the CPU, or shapes or dtypes disagree.
    """
    check_device("linear_cross_entropy", x)
    shapes = (bias.dim(), weight.shape, targets.shape, row_weights.shape)
    if x.dim() == 0 or shapes != (1, bias.shape + x.shape[-1:], x.shape[:-1], x.shape[:-1]):
        raise ValueError(
            f"x {list(x.shape)}, weight {list(weight.shape)}, bias {list(bias.shape)}, targets {list(targets.shape)} "
            f"and row_weights {list(row_weights.shape)} must be [..., E], [V, E], [V], [...] and [...]"
        )
    if x.dtype != weight.dtype:
        raise ValueError(f"x {x.dtype} and weight {weight.dtype} must be of one dtype")
    x, targets, row_weights = to_rows(x), targets.reshape(-1).contiguous(), row_weights.reshape(-1)
    chunk = chunk or chosen(problem_of("linear_cross_entropy", x, x.shape[0], *weight.shape)).options["chunk"]
    return _LinearCrossEntropy.apply(x, weight, bias, targets, row_weights, chunk, torch.is_grad_enabled())
