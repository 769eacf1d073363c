"""The optimizer update of all weights over flat buffers in five launches: LAMB with its trust ratios, or AdamW.

1. norm: one partial sum of squared gradients per tile. 2. numbers: one program adds these and computes the scalars of
the
step: gradient norm, clipping, finiteness, bias corrections, learning rate, counters. 3. change: reads gradient, moments
and weights; writes the moments and, over the gradient, the unscaled update; and sums the squares of weights and update
per row. 4. trust: one program per matrix computes its trust ratio from the sums of its rows. 5. apply: subtracts the
update from the weights, zeroes the gradient and writes the compute weights. This moves 50 bytes per weight. No atomics:
results depend only on the layout.

The buffers are treated as rows of N_COLS elements, each within one matrix. You et al. 2020, arXiv 1904.00962, as in
google-research/albert (lamb_optimizer.py); Loshchilov and Hutter 2019, arXiv 1711.05101.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import cdiv
from .calls import Call
from .candidates import Candidate, Problem, candidates, chosen, problem_of
from .cost import Cost, costs, size_of
from .eager import direct

# For the two kernels with few programs, which are latency-bound: many loads in flight.
SUM_OPTIONS = {"BLOCK": 4096, "num_warps": 16}


@triton.jit
def _tile(n_rows, N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """Rows of this program, the offsets of their elements, and the mask of existing ones."""
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    offsets = rows.to(tl.int64)[:, None] * N_COLS + tl.arange(0, N_COLS)[None, :]
    return rows, offsets, (rows < n_rows)[:, None]


@triton.jit(do_not_specialize=["n_rows"])
def _lamb_norm_kernel(grad_ptr, partial_ptr, n_rows, N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    _rows, offsets, mask = _tile(n_rows, N_COLS, BLOCK_ROWS)
    grad = tl.load(grad_ptr + offsets, mask, other=0.0)
    tl.store(partial_ptr + tl.program_id(0), tl.sum(tl.sum(grad * grad, axis=1), axis=0))


@triton.jit(do_not_specialize=["n_partials", "warmup_steps", "max_steps"])
def _lamb_numbers_kernel(
    partial_ptr, steps_ptr, updates_ptr, gradient_norm_ptr, learning_rate_ptr, number_ptr, rate_ptr,
    n_partials, share, max_grad_norm, learning_rate, warmup_steps, max_steps,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr, DECAY_POWER: tl.constexpr,
    CLIPS: tl.constexpr, DEBIASES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n_partials, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(partial_ptr + at, at < n_partials, other=0.0)
    norm = tl.sqrt(tl.sum(total, axis=0)) * share
    finite = norm < float("inf")  # False for NaN
    scale = share
    if CLIPS:
        scale = share * tl.minimum(max_grad_norm / (norm + 1e-6), 1.0)
    done = tl.load(steps_ptr)
    updates = tl.load(updates_ptr) + finite.to(tl.int64)

    warm = (done + 1).to(tl.float32) / tl.maximum(warmup_steps, 1)
    left = tl.maximum(max_steps - done, 0).to(tl.float32) / tl.maximum(max_steps - warmup_steps, 1)
    decay = left
    if DECAY_POWER != 1:
        decay = tl.where(left > 0, tl.exp(DECAY_POWER * tl.log(tl.maximum(left, 1e-30))), 0.0)
    rate = learning_rate * tl.where(done < warmup_steps, warm, decay)

    epsilon = tl.full((), EPSILON, tl.float64)
    correction = tl.full((), 1.0, tl.float64)
    if DEBIASES:  # 1 - beta^n in fp64: at n = 1, fp32 would keep only three digits
        first = 1.0 - tl.exp(updates.to(tl.float64) * tl.log(tl.full((), BETA1, tl.float64)))
        second = 1.0 - tl.exp(updates.to(tl.float64) * tl.log(tl.full((), BETA2, tl.float64)))
        root = tl.sqrt(tl.where(updates > 0, second, 1.0))
        epsilon *= root
        correction = root / tl.where(updates > 0, first, 1.0)
    tl.store(steps_ptr, done + 1)
    tl.store(updates_ptr, updates)
    tl.store(gradient_norm_ptr, norm)
    tl.store(learning_rate_ptr, rate)
    tl.store(number_ptr, tl.where(finite, scale, 0.0))
    tl.store(number_ptr + 1, finite.to(tl.float32))
    tl.store(number_ptr + 2, epsilon.to(tl.float32))
    tl.store(number_ptr + 3, correction.to(tl.float32))
    tl.store(rate_ptr, tl.where(finite, rate, 0.0))


@triton.jit(do_not_specialize=["n_rows", "decayed_rows"])
def _lamb_change_kernel(
    grad_ptr, exp_avg_ptr, exp_avg_sq_ptr, master_ptr, number_ptr, square_ptr, n_rows, decayed_rows, weight_decay,
    BETA1: tl.constexpr, BETA2: tl.constexpr, N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, TRUSTS: tl.constexpr,
):  # fmt: skip
    rows, offsets, mask = _tile(n_rows, N_COLS, BLOCK_ROWS)
    scale = tl.load(number_ptr)
    finite = tl.load(number_ptr + 1) > 0
    epsilon = tl.load(number_ptr + 2)
    correction = tl.load(number_ptr + 3)
    # If the gradient is not finite, the moments stay and everything computed here stays finite.
    grad = tl.where(finite, tl.load(grad_ptr + offsets, mask, other=0.0) * scale, 0.0)
    exp_avg = tl.load(exp_avg_ptr + offsets, mask, other=0.0)
    exp_avg = tl.where(finite, exp_avg + (1 - BETA1) * (grad - exp_avg), exp_avg)
    tl.store(exp_avg_ptr + offsets, exp_avg, mask)
    exp_avg_sq = tl.load(exp_avg_sq_ptr + offsets, mask, other=0.0)
    exp_avg_sq = tl.where(finite, exp_avg_sq + (1 - BETA2) * (grad * grad - exp_avg_sq), exp_avg_sq)
    tl.store(exp_avg_sq_ptr + offsets, exp_avg_sq, mask)
    master = tl.load(master_ptr + offsets, mask, other=0.0)
    change = exp_avg / (tl.sqrt(exp_avg_sq) + epsilon) * correction
    change += tl.where(rows < decayed_rows, weight_decay, 0.0)[:, None] * master
    tl.store(grad_ptr + offsets, change, mask)
    if TRUSTS:
        rows64 = rows.to(tl.int64)
        tl.store(square_ptr + rows64, tl.sum(master * master, axis=1), rows < n_rows)
        tl.store(square_ptr + n_rows + rows64, tl.sum(change * change, axis=1), rows < n_rows)


@triton.jit(do_not_specialize=["n_rows", "trusted"])
def _lamb_trust_kernel(square_ptr, around_ptr, ratio_ptr, length_ptr, n_rows, trusted, BLOCK: tl.constexpr):
    part = tl.program_id(0)
    last = n_rows - tl.load(around_ptr + 2 * part + 1)
    weights = tl.zeros((BLOCK,), tl.float32)
    changes = tl.zeros((BLOCK,), tl.float32)
    for start in range(tl.load(around_ptr + 2 * part), last, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        weights += tl.load(square_ptr + rows, rows < last, other=0.0)
        changes += tl.load(square_ptr + n_rows + rows.to(tl.int64), rows < last, other=0.0)
    weight = tl.sqrt(tl.sum(weights, axis=0))
    change = tl.sqrt(tl.sum(changes, axis=0))
    trust = (part < trusted) & (weight > 0) & (change > 0)
    tl.store(ratio_ptr + part, tl.where(trust, weight / tl.where(trust, change, 1.0), 1.0))
    tl.store(length_ptr + 2 * part, weight)
    tl.store(length_ptr + 2 * part + 1, change)


@triton.jit(do_not_specialize=["n_rows"])
def _lamb_apply_kernel(
    grad_ptr, master_ptr, compute_ptr, owner_ptr, ratio_ptr, rate_ptr, n_rows,
    N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, TRUSTS: tl.constexpr, CASTS: tl.constexpr,
):  # fmt: skip
    rows, offsets, mask = _tile(n_rows, N_COLS, BLOCK_ROWS)
    change = tl.load(grad_ptr + offsets, mask, other=0.0)
    if TRUSTS:
        owner = tl.load(owner_ptr + rows, rows < n_rows, other=0)
        change *= tl.load(ratio_ptr + owner)[:, None]
    master = tl.load(master_ptr + offsets, mask, other=0.0) - change * tl.load(rate_ptr)
    tl.store(master_ptr + offsets, master, mask)
    tl.store(grad_ptr + offsets, tl.zeros((BLOCK_ROWS, N_COLS), tl.float32), mask)
    if CASTS:
        tl.store(compute_ptr + offsets, master.to(compute_ptr.dtype.element_ty), mask)


@candidates("lamb")
def _candidates(problem: Problem) -> list[Candidate]:
    return [
        Candidate(f"{elements} elements, {warps} warps", {"elements": elements, "num_warps": warps}, reason)
        for elements, warps, reason in (
            (
                4096,
                8,
                "16 elements per thread: 80 registers, so three programs per SM with 256 bytes in flight per thread",
            ),
            (2048, 4, "the same per thread in smaller programs: a shorter tail"),
            (2048, 8, "half the registers per thread, more threads per SM"),
        )
    ]


def _options(grad: Tensor, n_cols: int) -> dict[str, int]:
    elements, warps = chosen(problem_of("lamb", grad, grad.numel() // n_cols, n_cols)).options.values()
    return {"N_COLS": n_cols, "BLOCK_ROWS": max(1, elements // n_cols), "num_warps": warps}


@torch.library.custom_op(
    "albert_fast::lamb",
    mutates_args=("grad", "exp_avg", "exp_avg_sq", "master", "compute", "steps", "updates", "gradient_norm",
                  "last_learning_rate", "ratios", "lengths"),
)  # fmt: skip
def _update(
    grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, master: Tensor, compute: Tensor | None, steps: Tensor,
    updates: Tensor, gradient_norm: Tensor, last_learning_rate: Tensor, owners: Tensor, around: Tensor,
    ratios: Tensor | None, lengths: Tensor | None, share: float, max_grad_norm: float, learning_rate: float,
    warmup_steps: int, max_steps: int, decay_power: float, beta1: float, beta2: float, epsilon: float,
    debiases: bool, weight_decay: float, decayed: int, trusted: int,
) -> None:  # fmt: skip
    """One update in place; arguments as in `lamb`, owners [R] for R rows of N_COLS elements."""
    # An int would make Triton compile another kernel than the float that the dispatcher passes under capture.
    share, max_grad_norm, learning_rate = float(share), float(max_grad_norm), float(learning_rate)
    decay_power, weight_decay = float(decay_power), float(weight_decay)
    n_rows = owners.numel()
    n_cols = grad.numel() // n_rows
    options = _options(grad, n_cols)
    grid = (cdiv(n_rows, options["BLOCK_ROWS"]),)
    partials = grad.new_empty(grid)
    numbers = grad.new_empty(5)
    squares = None if ratios is None else grad.new_empty(2, n_rows)
    with torch.cuda.device_of(grad):
        _lamb_norm_kernel[grid](grad, partials, n_rows, **options)
        _lamb_numbers_kernel[(1,)](
            partials, steps, updates, gradient_norm, last_learning_rate, numbers[:4], numbers[4:],
            *grid, share, max_grad_norm, learning_rate, warmup_steps, max_steps,
            BETA1=beta1, BETA2=beta2, EPSILON=epsilon, DECAY_POWER=decay_power, CLIPS=max_grad_norm > 0,
            DEBIASES=debiases, **SUM_OPTIONS,
        )  # fmt: skip
        _lamb_change_kernel[grid](
            grad, exp_avg, exp_avg_sq, master, numbers[:4], squares, n_rows, decayed // n_cols, weight_decay,
            BETA1=beta1, BETA2=beta2, TRUSTS=ratios is not None, **options,
        )  # fmt: skip
        if ratios is not None:
            _lamb_trust_kernel[(ratios.numel(),)](squares, around, ratios, lengths, n_rows, trusted, **SUM_OPTIONS)
        _lamb_apply_kernel[grid](
            grad, master, compute, owners if ratios is not None else None, ratios, numbers[4:], n_rows,
            TRUSTS=ratios is not None, CASTS=compute is not None, **options,
        )  # fmt: skip


@_update.register_fake
def _(grad, *_):
    return None


@costs("albert_fast::lamb")
def _update_costs(grad, exp_avg, exp_avg_sq, master, compute, steps, updates, gradient_norm, last_learning_rate,
                  owners, around, ratios, lengths, *_):  # fmt: skip
    n_rows = owners.numel()
    partials = 4 * cdiv(n_rows, _options(grad, grad.numel() // n_rows)["BLOCK_ROWS"])
    flat, moments, squares = size_of(grad), size_of(exp_avg, exp_avg_sq), 0 if ratios is None else 8 * n_rows
    counters = 2 * size_of(steps, updates) + size_of(gradient_norm, last_learning_rate)
    change, apply = 2 * flat + 2 * moments + size_of(master), 2 * flat + 2 * size_of(master) + size_of(compute)
    looked_up = 0 if ratios is None else size_of(owners, ratios)
    made = [
        Cost("_lamb_norm_kernel", flat + partials, least_bytes=flat),
        Cost("_lamb_numbers_kernel", partials + counters + 20, least_bytes=0),
        Cost("_lamb_change_kernel", change + 16 + squares, least_bytes=change),
        Cost("_lamb_trust_kernel", squares + size_of(around, ratios, lengths), least_bytes=0),
        Cost("_lamb_apply_kernel", apply + 4 + looked_up, least_bytes=apply),
    ]
    return made if ratios is not None else [*made[:3], made[4]]


update = direct(_update)
RULE = ("share", "max_grad_norm", "learning_rate", "warmup_steps", "max_steps", "decay_power", "beta1", "beta2",
        "epsilon", "debiases", "weight_decay", "decayed", "trusted")  # fmt: skip


def calls(sizes, dtype, make):
    # As many weights as hidden units, so that sizes past 2^31 are reached; one part, which owns all rows.
    n_cols = 512
    n_rows = max(1, sizes.tokens * sizes.hidden // n_cols)
    acc_dtype = torch.float32
    for debiases, trusts in ((False, True), (True, False)):
        grad, exp_avg, master = (make(n_rows * n_cols, dtype=acc_dtype) for _ in range(3))
        compute = None if dtype == acc_dtype else make(n_rows * n_cols, dtype=dtype)
        owners, around = make(n_rows, dtype=torch.int32), make(1, 2, dtype=torch.int32)
        ratios, lengths = (make(1, dtype=acc_dtype), make(1, 2, dtype=acc_dtype)) if trusts else (None, None)
        counters = [make(dtype=kind) for kind in (torch.int64, torch.int64, acc_dtype, acc_dtype)]
        arguments = (grad, exp_avg, make(n_rows * n_cols, dtype=acc_dtype).square(), master, compute, *counters, owners,
                     around, ratios, lengths)  # fmt: skip
        rule = 0.5, 1.0, 1e-3, 10, 100, 2.0 if debiases else 1.0, 0.9, 0.999, 1e-6
        yield Call(_update, (*arguments, *rule, debiases, 0.01, n_rows // 2 * n_cols, int(trusts)))


def lamb(
    grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, master: Tensor, compute: Tensor | None, steps: Tensor,
    updates: Tensor, gradient_norm: Tensor, last_learning_rate: Tensor, owners: Tensor, around: Tensor,
    ratios: Tensor | None, lengths: Tensor | None, **rule: float,
) -> None:  # fmt: skip
    """Update all weights in place from the gradient, and zero the gradient.

    If the gradient is not finite, weights and moments stay unchanged; that counts as a step but not as an update.

    Args:
        grad, exp_avg, exp_avg_sq, master: flat fp32 [R * C], rows of C elements that each belong to one part.
        compute: the weights in the compute dtype, [R * C]; None if that is master.
        steps, updates: int64 scalars; gradient_norm (before clipping), last_learning_rate: fp32 scalars, written.
        owners: int32 [R], the part of each row; around: int32 [M, 2], number of rows before and after each of M parts.
        ratios: fp32 [M], output: trust ratios of the first `trusted` parts; None if not needed.
        lengths: fp32 [M, 2], output: norms of each part's weights and of its update, before trust ratio and rate.
        rule: share (factor from gradient sum to mean), max_grad_norm (0: no clipping), learning_rate, warmup_steps,
            max_steps, decay_power (above 0), beta1, beta2, epsilon, debiases (AdamW's bias correction), weight_decay,
            decayed (number of leading elements with weight decay, whole rows), trusted.
    """
    tensors = exp_avg, exp_avg_sq, master, compute, steps, updates, gradient_norm, last_learning_rate, owners, around
    update(grad, *tensors, ratios, lengths, *(rule[name] for name in RULE))
