"""Attention's kernels on CUDA, the candidates among which a card chooses, and the host code around them.

Flash attention, FlashAttention 3 where it is installed, and the memory-efficient kernel, the only one with fp32.
cuDNN's is no candidate: torch gives its backward the head size as the longest sequence, which then writes past its
workspace, a fault that no check survives (pytorch#186142), and before cuDNN 9.25 an empty sequence makes NaN
(cudnn-frontend#943); our batches end in empty sequences.

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
    """Queries, keys and values, as views of qkv [T, 3, N, D], or of q [R, N, D] and qkv [T, 2, N, D]."""
    return qkv.unbind(1) if q is None else (q, *qkv.unbind(1))


@candidates("attention", "attention_of_some")
def _candidates(problem: Problem) -> list[Candidate]:
    efficient = Candidate(EFFICIENT, EFFICIENT, "blocks of 64 queries: may win where sequences are short")
    if problem.dtype not in ("bfloat16", "float16"):
        return [efficient]
    found = [Candidate(FLASH, FLASH, "the library's default; FlashAttention 2"), efficient]
    if problem.architecture == "sm_90" and has_flash_3():
        found.append(Candidate(FLASH_3, FLASH_3, "asynchronous products and copies of Hopper"))
    return found


def has_flash_3() -> bool:
    """Whether torch can let FlashAttention 3 run behind its flash ops: it brings the switch, a package the kernels."""
    return find_spec("flash_attn_interface") is not None and "FA3" in registry.list_flash_attention_impls()


def _kernel(qkv: Tensor, q: Tensor | None, max_seqlen: int) -> str:
    """Who runs this attention; forward and backward ask alike, since they share the log-sum-exp."""
    tokens, _, heads, size = qkv.shape
    op = "attention" if q is None else "attention_of_some"
    return chosen(problem_of(op, qkv, tokens, heads * size, size, length=max_seqlen)).options


def _let_flash_be(kernel: str) -> None:
    """Have torch's flash ops run FlashAttention 3, or their own kernels again."""
    active, wanted = registry.current_flash_attention_impl(), "FA3" if kernel == FLASH_3 else None
    if active != wanted and wanted is not None:
        registry.activate_flash_attention_impl(wanted)
    elif active == "FA3" and wanted is None:
        registry.restore_flash_attention_impl()


def log_sum_exp_shape(qkv: Tensor, q: Tensor | None, sequences: int, max_seqlen: int) -> tuple[int, ...]:
    """[N, R] as flash has it; the memory-efficient kernel has [B, N, longest, rounded up to 32]."""
    rows, heads, _ = parts(qkv, q)[0].shape
    if _kernel(qkv, q, max_seqlen) == EFFICIENT:
        return sequences, heads, -(-min(max_seqlen, rows) // 32) * 32
    return heads, rows


def _pad_heads(x: Tensor) -> Tensor:
    """x with its head size a multiple of 8, as the kernels want it (ALBERT-tiny's 26 is padded with zeros to 32)."""
    pad = -x.shape[-1] % 8
    return F.pad(x, (0, pad)) if pad else x


def _zero_past(x: Tensor, cu_queries: Tensor) -> Tensor:
    """x [R, N, D], zero for queries of no sequence, whose rows the kernels leave unwritten, NaN perhaps."""
    inside = torch.arange(len(x), device=x.device) < cu_queries[-1]
    return torch.where(inside[:, None, None], x, 0.0)


def _inputs(
    qkv: Tensor, q: Tensor | None, cu_queries: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> tuple[list[Tensor], tuple[Tensor, Tensor, int, int], int]:
    """Queries, keys and values; cu_seqlens and bounds of both; D. The efficient kernel wants no bound above T or R."""
    padded = [_pad_heads(x) for x in parts(qkv, q)]
    bounds = min(max_seqlen, len(padded[0])), min(max_seqlen, len(qkv))
    return padded, (cu_queries, cu_seqlens, *bounds), qkv.shape[-1]


def cuda_attention(
    qkv: Tensor, q: Tensor | None, cu_queries: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> tuple[Tensor, Tensor]:
    """The output [R, N, D] and the log-sum-exp, by the kernel that was chosen."""
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
    """The gradients of qkv and of q, empty without it; sums of qkv's over chunks of tokens [P, 1, K N D].

    Where earlier ones are given as `sums`, they are added to these, and P = 0 are returned.
    """
    from albert_fast.kernels.pack_gradients import pack_gradients  # where there is no GPU, Triton need not be

    inputs, sequences, size = _inputs(qkv, q, cu_queries, cu_seqlens, max_seqlen)
    grad, out, scale = _pad_heads(grad), _pad_heads(out), size**-0.5
    kernel = _kernel(qkv, q, max_seqlen)
    # The state of dropout's generator, which nothing reads without dropout.
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
