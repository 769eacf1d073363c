"""Attention within packed sequences as one opaque op: flash varlen on CUDA, flash over equal lengths on CPU.

Dimension letters: T tokens (packed), B sequences, N heads, D head size.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def varlen_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """softmax(q k.T / sqrt(D)) v within each packed sequence: qkv [T, 3, N, D] -> [T, N, D].

    cu_seqlens int32 [B+1] rises from 0; repeated values are empty sequences, tokens past the last one belong to none
    and give zeros. No sequence is longer than max_seqlen. One opaque op: tracing freezes nothing of cu_seqlens.
    """
    return torch.ops.albert_fast.varlen_attention(qkv, cu_seqlens, max_seqlen)[0]


class _Group:
    """The sequences of one length: where their tokens lie, as a slice where they lie together, else by index."""

    def __init__(self, starts: list[int], length: int):
        self.length = length
        together = all(b - a == length for a, b in pairwise(starts))
        index = torch.tensor(starts)[:, None] + torch.arange(length)
        self.rows = slice(starts[0], starts[-1] + length) if together else index.flatten()

    def take(self, x: Tensor) -> Tensor:
        """[n, length, ...] of x [T, ...]: a view where it can be."""
        return x[self.rows].unflatten(0, (-1, self.length))

    def put(self, x: Tensor, value: Tensor) -> None:
        """Write value [n, length, ...] to its rows of x [T, ...]."""
        x[self.rows] = value.flatten(0, 1)


def _equal_lengths(edges: list[int]) -> list[_Group]:
    starts = defaultdict(list)
    for start, end in pairwise(edges):
        if end > start:
            starts[end - start].append(start)
    return [_Group(places, length) for length, places in starts.items()]


@torch.library.custom_op("albert_fast::varlen_attention", mutates_args=())
def _varlen_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> tuple[Tensor, Tensor]:
    """Returns the output and, for backward, the log-sum-exp of each score row: [T, N], or as flash has it."""
    tokens, _, heads, size = qkv.shape
    if qkv.is_cuda:
        return _cuda_attention(qkv, cu_seqlens, max_seqlen)
    edges = cu_seqlens.tolist()
    out = qkv.new_empty(tokens, heads, size)
    log_sum_exp = qkv.new_empty(tokens, heads, dtype=torch.promote_types(qkv.dtype, torch.float32))
    out[edges[-1] :] = 0
    log_sum_exp[edges[-1] :] = 0
    for group in _equal_lengths(edges):
        q, k, v = group.take(qkv).permute(2, 0, 3, 1, 4)  # [n, N, length, D] each
        part, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[:2]
        group.put(out, part.transpose(1, 2))
        group.put(log_sum_exp, lse.transpose(1, 2))
    return out, log_sum_exp


@_varlen_attention.register_fake
def _(qkv, cu_seqlens, max_seqlen):
    tokens, _, heads, size = qkv.shape
    out = qkv.new_empty(tokens, heads, size)
    return out, qkv.new_empty(tokens, heads, dtype=torch.promote_types(qkv.dtype, torch.float32))


@torch.library.custom_op("albert_fast::varlen_attention_backward", mutates_args=())
def _varlen_attention_backward(
    grad: Tensor, qkv: Tensor, out: Tensor, log_sum_exp: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> Tensor:
    if qkv.is_cuda:
        return _cuda_attention_backward(grad, qkv, out, log_sum_exp, cu_seqlens, max_seqlen)
    edges = cu_seqlens.tolist()
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    grad_qkv[edges[-1] :] = 0
    for group in _equal_lengths(edges):
        q, k, v = group.take(qkv).permute(2, 0, 3, 1, 4)
        g, o, lse = (group.take(x).transpose(1, 2) for x in (grad, out, log_sum_exp))
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, o, lse, 0.0, False)
        for which, part in enumerate(parts):
            group.put(grad_qkv[:, which], part.transpose(1, 2))
    return grad_qkv


@_varlen_attention_backward.register_fake
def _(grad, qkv, out, log_sum_exp, cu_seqlens, max_seqlen):
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _save_for_backward(ctx, inputs, output):
    qkv, cu_seqlens, ctx.max_seqlen = inputs
    ctx.save_for_backward(qkv, *output, cu_seqlens)


def _attention_backward(ctx, grad, _):
    qkv, out, log_sum_exp, cu_seqlens = ctx.saved_tensors
    backward = torch.ops.albert_fast.varlen_attention_backward
    return backward(grad.contiguous(), qkv, out, log_sum_exp, cu_seqlens, ctx.max_seqlen), None, None


_varlen_attention.register_autograd(_attention_backward, setup_context=_save_for_backward)


def _pad_heads(x: Tensor) -> Tensor:
    """x with its head size a multiple of 8, as flash wants it (ALBERT-tiny's 26 is padded with zeros to 32)."""
    pad = -x.shape[-1] % 8
    return F.pad(x, (0, pad)) if pad else x


def _in_sequence(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """[T, 1, 1] bool: whether a token belongs to a sequence. Flash leaves the rows of others unwritten, NaN perhaps."""
    return (torch.arange(tokens, device=cu_seqlens.device) < cu_seqlens[-1])[:, None, None]


def _cuda_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> tuple[Tensor, Tensor]:
    q, k, v = _pad_heads(qkv).unbind(1)
    scale, size = qkv.shape[-1] ** -0.5, qkv.shape[-1]
    if qkv.dtype == torch.float32:  # flash has no fp32; the memory-efficient kernel has
        out, lse, *_ = torch.ops.aten._efficient_attention_forward(
            q[None], k[None], v[None], None, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, 0, True, scale=scale
        )
        out = out[0]
    else:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, False, False, scale=scale
        )
    return torch.where(_in_sequence(cu_seqlens, qkv.shape[0]), out[..., :size], 0.0), lse


def _cuda_attention_backward(grad, qkv, out, lse, cu_seqlens, max_seqlen):
    q, k, v = _pad_heads(qkv).unbind(1)
    grad, out = _pad_heads(grad), _pad_heads(out)
    scale = qkv.shape[-1] ** -0.5
    none = torch.zeros(2, dtype=torch.uint64 if qkv.dtype != torch.float32 else torch.int64, device=qkv.device)
    if qkv.dtype == torch.float32:
        parts = torch.ops.aten._efficient_attention_backward(
            grad[None], q[None], k[None], v[None], None, out[None], cu_seqlens, cu_seqlens, max_seqlen, max_seqlen,
            lse, 0.0, none[0], none[1], 0, False, scale=scale,
        )[:3]  # fmt: skip
        parts = [part[0] for part in parts]
    else:
        parts = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, lse, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, False, none, none, scale=scale
        )
    stacked = torch.stack([part[..., : qkv.shape[-1]] for part in parts], dim=1)
    return torch.where(_in_sequence(cu_seqlens, qkv.shape[0])[..., None], stacked, 0.0)
