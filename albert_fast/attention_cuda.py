"""Attention on CUDA: the candidate kernels that tuning chooses from, and their host code.

The candidates are flash attention, FlashAttention 3 if installed, and the memory-efficient kernel, which alone supports
fp32. cuDNN attention is excluded: torch passes its backward the head size as the longest sequence, so it writes past
its workspace (pytorch#186142), which no check can survive; and before cuDNN 9.25 empty sequences, with which our
batches end, give NaN (cudnn-frontend#943).

Dimension letters: T tokens (packed), R queries, B sequences, N heads, D head size.
"""

from importlib.util import find_spec

import torch
import torch.nn.attention as registry
import torch.nn.functional as F
from torch import Tensor

from albert_fast.kernels.candidates import Candidate, Problem, candidates, chosen, problem_of

FLASH, FLASH_3, EFFICIENT = "flash", "flash 3", "efficient"


def parts(qkv: Tensor, q: Tensor | None = None) -> tuple[Tensor, ...]:
    """Queries, keys and values as views of qkv [T, 3, N, D], or of q [R, N, D] and qkv [T, 2, N, D]."""
    return qkv.unbind(1) if q is None else (q, *qkv.unbind(1))


@candidates("attention", "attention_of_some")
def _candidates(problem: Problem) -> list[Candidate]:
    efficient = Candidate(EFFICIENT, EFFICIENT, "blocks of 64 queries: may win for short sequences")
    if problem.dtype not in ("bfloat16", "float16"):
        return [efficient]
    found = [Candidate(FLASH, FLASH, "the library's default; FlashAttention 2"), efficient]
    if problem.architecture == "sm_90" and has_flash_3():
        found.append(Candidate(FLASH_3, FLASH_3, "asynchronous products and copies of Hopper"))
    return found


def has_flash_3() -> bool:
    """Whether torch's flash ops can run FlashAttention 3: torch has the switch, a separate package the kernels."""
    return find_spec("flash_attn_interface") is not None and "FA3" in registry.list_flash_attention_impls()


def _kernel(qkv: Tensor, q: Tensor | None, max_seqlen: int) -> str:
    """Name of the kernel for these inputs; the same in forward and backward, which share the log-sum-exp."""
    tokens, _, heads, size = qkv.shape
    op = "attention" if q is None else "attention_of_some"
    return chosen(problem_of(op, qkv, tokens, heads * size, size, length=max_seqlen)).options


def _let_flash_be(kernel: str) -> None:
    """Switch torch's flash ops to FlashAttention 3 or back to their own kernels."""
    active, wanted = registry.current_flash_attention_impl(), "FA3" if kernel == FLASH_3 else None
    if active != wanted and wanted is not None:
        registry.activate_flash_attention_impl(wanted)
    elif active == "FA3" and wanted is None:
        registry.restore_flash_attention_impl()


def log_sum_exp_shape(qkv: Tensor, q: Tensor | None, sequences: int, max_seqlen: int) -> tuple[int, ...]:
    """[N, R] for flash attention; [B, N, longest sequence rounded up to 32] for the memory-efficient kernel."""
    rows, heads, _ = parts(qkv, q)[0].shape
    if _kernel(qkv, q, max_seqlen) == EFFICIENT:
        return sequences, heads, -(-min(max_seqlen, rows) // 32) * 32
    return heads, rows


def _pad_heads(x: Tensor) -> Tensor:
    """Zero-pad the head size to a multiple of 8, which the kernels require (ALBERT-tiny's 26 becomes 32)."""
    pad = -x.shape[-1] % 8
    return F.pad(x, (0, pad)) if pad else x


def _zero_past(x: Tensor, cu_queries: Tensor) -> Tensor:
    """Zero the rows of x [R, N, D] past the last sequence, which the kernels leave uninitialised."""
    inside = torch.arange(len(x), device=x.device) < cu_queries[-1]
    return torch.where(inside[:, None, None], x, 0.0)


def _inputs(
    qkv: Tensor, q: Tensor | None, cu_queries: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> tuple[list[Tensor], tuple[Tensor, Tensor, int, int], int]:
    """(queries, keys, values), (cu_seqlens and length bounds of both), D. Bounds are clamped to R and T."""
    padded = [_pad_heads(x) for x in parts(qkv, q)]
    bounds = min(max_seqlen, len(padded[0])), min(max_seqlen, len(qkv))
    return padded, (cu_queries, cu_seqlens, *bounds), qkv.shape[-1]


def cuda_attention(
    qkv: Tensor, q: Tensor | None, cu_queries: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> tuple[Tensor, Tensor]:
    """Output [R, N, D] and log-sum-exp, by the chosen kernel."""
    inputs, sequences, size = _inputs(qkv, q, cu_queries, cu_seqlens, max_seqlen)
    kernel, scale = _kernel(qkv, q, max_seqlen), size**-0.5
    if kernel == EFFICIENT:
        batched = [part[None] for part in inputs]
        out, log_sum_exp, *_ = torch.ops.aten._efficient_attention_forward(
            *batched, None, *sequences, 0.0, 0, True, scale=scale
        )
        out = out[0]
    else:
        _let_flash_be(kernel)
        out, log_sum_exp, *_ = torch.ops.aten._flash_attention_forward(
            *inputs, *sequences, 0.0, False, False, scale=scale
        )
    out = out[..., :size]
    return out.contiguous() if q is None else _zero_past(out, cu_queries), log_sum_exp


def cuda_attention_backward(
    grad: Tensor, qkv: Tensor, q: Tensor | None, out: Tensor, log_sum_exp: Tensor, cu_queries: Tensor,
    cu_seqlens: Tensor, max_seqlen: int, sums: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of qkv and q (empty without q), and partial sums of qkv's gradient over the tokens [P, 1, K N D].

    If `sums` is given, the partial sums are added to it and none are returned (P = 0).
    """
    from albert_fast.kernels.pack_gradients import pack_gradients  # here, so that machines without a GPU need no Triton

    inputs, sequences, size = _inputs(qkv, q, cu_queries, cu_seqlens, max_seqlen)
    grad, out, scale = _pad_heads(grad), _pad_heads(out), size**-0.5
    kernel = _kernel(qkv, q, max_seqlen)
    # The state of the dropout generator, unused without dropout.
    none = torch.empty(2, dtype=torch.int64 if kernel == EFFICIENT else torch.uint64, device=qkv.device)
    if kernel == EFFICIENT:
        batched = [part[None] for part in inputs]
        made = torch.ops.aten._efficient_attention_backward(
            grad[None], *batched, None, out[None], *sequences, log_sum_exp, 0.0, none[0], none[1], 0, False, scale=scale
        )[:3]
        made = [part[0] for part in made]
    else:
        _let_flash_be(kernel)
        made = torch.ops.aten._flash_attention_backward(
            grad, *inputs, out, log_sum_exp, *sequences, 0.0, False, none, none, scale=scale
        )
    if q is None:
        grad_qkv, partials = pack_gradients(list(made), size, sums)
        return grad_qkv, qkv.new_empty(0), partials
    grad_kv, partials = pack_gradients(list(made[1:]), size, sums)
    return grad_kv, _zero_past(made[0][..., :size], cu_queries), partials
