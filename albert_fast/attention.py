"""Attention within packed sequences as one opaque op: flash varlen on CUDA, flash over equal lengths on CPU.

Dimension letters: T tokens (packed), R tokens that ask, B sequences, N heads, D head size.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Queries:
    """The tokens whose queries are wanted, packed by sequence.

    tokens: int64 [R], ascending; cu_seqlens: int32 [B+1], of these tokens; inverse: int64 [R], where in `tokens` each
    of the positions asked for stands.
    """

    tokens: Tensor
    cu_seqlens: Tensor
    inverse: Tensor

    @classmethod
    def pack(cls, positions: Tensor, cu_seqlens: Tensor, num_tokens: int) -> Queries:
        """Of positions int [R], in any order, among num_tokens packed tokens; num_tokens itself stands for none."""
        ascending, order = positions.sort()
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        cu_queries = torch.searchsorted(ascending, cu_seqlens, out_int32=True)
        return cls(ascending.long().clamp(max=num_tokens - 1), cu_queries, inverse)


def varlen_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, q: Tensor | None = None, cu_queries: Tensor | None = None
) -> Tensor:
    """softmax(q k.T / sqrt(D)) v within each packed sequence: qkv [T, 3, N, D] -> [T, N, D].

    cu_seqlens int32 [B+1] rises from 0; repeated values are empty sequences, tokens past the last one belong to none
    and give zeros. No sequence is longer than max_seqlen. Where some tokens alone ask, qkv [T, 2, N, D] holds keys and
    values, q [R, N, D] the queries and cu_queries int32 [B+1] their edges, at most max_seqlen a sequence: -> [R, N, D].
    One opaque op: tracing freezes nothing of cu_seqlens.
    """
    edges = cu_seqlens if cu_queries is None else cu_queries
    return torch.ops.albert_fast.varlen_attention(qkv, q, edges, cu_seqlens, max_seqlen)[0]


def _parts(qkv: Tensor, q: Tensor | None = None) -> tuple[Tensor, ...]:
    """Queries, keys and values, as views."""
    return qkv.unbind(1) if q is None else (q, *qkv.unbind(1))


class _Group:
    """The tokens of sequences of one length: a slice where they lie together, else an index."""

    def __init__(self, starts: list[int], length: int):
        self.length = length
        together = all(b - a == length for a, b in pairwise(starts))
        index = torch.tensor(starts)[:, None] + torch.arange(length)
        self.rows = slice(starts[0], starts[-1] + length) if together else index.flatten()

    def take(self, x: Tensor) -> Tensor:
        """[n, N, length, ...] of x [T, N, ...]: a view where it can be."""
        return x[self.rows].unflatten(0, (-1, self.length)).transpose(1, 2)

    def put(self, x: Tensor, value: Tensor) -> None:
        """Write value [n, N, length, ...] to its rows of x [T, N, ...]."""
        x[self.rows] = value.transpose(1, 2).flatten(0, 1)


def _equal_lengths(cu_queries: list[int], cu_seqlens: list[int]) -> list[tuple[_Group, _Group]]:
    """The queries and the tokens of the sequences that have as many of both."""
    alike: dict[tuple[int, int], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for (first, last), (start, end) in zip(pairwise(cu_queries), pairwise(cu_seqlens), strict=True):
        if last > first:
            asking, seen = alike[last - first, end - start]
            asking.append(first)
            seen.append(start)
    return [(_Group(asking, queries), _Group(seen, tokens)) for (queries, tokens), (asking, seen) in alike.items()]


@torch.library.custom_op("albert_fast::varlen_attention", mutates_args=())
def _varlen_attention(
    qkv: Tensor, q: Tensor | None, cu_queries: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> tuple[Tensor, Tensor]:
    """Returns the output and, for backward, the log-sum-exp of each score row: [R, N], or as flash has it."""
    if qkv.is_cuda:
        return _cuda_attention(qkv, q, cu_queries, cu_seqlens, max_seqlen)
    query, key, value = _parts(qkv, q)
    out, log_sum_exp = _outputs(qkv, q, cu_queries, cu_seqlens, max_seqlen)
    asked, edges = cu_queries.tolist(), cu_seqlens.tolist()
    for made in (out, log_sum_exp):
        made[asked[-1] :] = 0
    for asking, seen in _equal_lengths(asked, edges):
        inputs = asking.take(query), seen.take(key), seen.take(value)
        part, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*inputs)[:2]
        asking.put(out, part)
        asking.put(log_sum_exp, lse)
    return out, log_sum_exp


@_varlen_attention.register_fake
def _outputs(qkv, q, cu_queries, cu_seqlens, max_seqlen):
    shape = _parts(qkv, q)[0].shape
    return qkv.new_empty(shape), qkv.new_empty(shape[:2], dtype=torch.promote_types(qkv.dtype, torch.float32))


@torch.library.custom_op("albert_fast::varlen_attention_backward", mutates_args=())
def _varlen_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    q: Tensor | None,
    out: Tensor,
    log_sum_exp: Tensor,
    cu_queries: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
) -> list[Tensor]:
    """The gradients of qkv and, where it is given, of q."""
    if qkv.is_cuda:
        return _cuda_attention_backward(grad, qkv, q, out, log_sum_exp, cu_queries, cu_seqlens, max_seqlen)
    grads = _input_gradients(grad, qkv, q, out, log_sum_exp, cu_queries, cu_seqlens, max_seqlen)
    query, key, value = _parts(qkv, q)
    asked, edges = cu_queries.tolist(), cu_seqlens.tolist()
    for made in grads:  # what the loop does not write: tokens of no sequence; with q, sequences without a query too
        made[edges[-1] if q is None else 0 :] = 0
    for asking, seen in _equal_lengths(asked, edges):
        inputs = asking.take(query), seen.take(key), seen.take(value)
        g, o, lse = (asking.take(x) for x in (grad, out, log_sum_exp))
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(g, *inputs, o, lse, 0.0, False)
        for group, made, part in zip((asking, seen, seen), _parts(*grads), parts, strict=True):
            group.put(made, part)
    return grads


@_varlen_attention_backward.register_fake
def _input_gradients(grad, qkv, q, out, log_sum_exp, cu_queries, cu_seqlens, max_seqlen):
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (qkv, q) if x is not None]


def _save_for_backward(ctx, inputs, output):
    qkv, q, *edges, ctx.max_seqlen = inputs
    ctx.save_for_backward(qkv, q, *output, *edges)


def _attention_backward(ctx, grad, _):
    backward = torch.ops.albert_fast.varlen_attention_backward
    grads = backward(grad.contiguous(), *ctx.saved_tensors, ctx.max_seqlen)
    return *grads, *[None] * (5 - len(grads))


_varlen_attention.register_autograd(_attention_backward, setup_context=_save_for_backward)


def _pad_heads(x: Tensor) -> Tensor:
    """x with its head size a multiple of 8, as flash wants it (ALBERT-tiny's 26 is padded with zeros to 32)."""
    pad = -x.shape[-1] % 8
    return F.pad(x, (0, pad)) if pad else x


def _zero_outside(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """x [T, ...], zero for tokens of no sequence. Flash leaves their rows unwritten, NaN perhaps."""
    inside = torch.arange(len(x), device=x.device) < cu_seqlens[-1]
    return torch.where(inside.view(-1, *[1] * (x.dim() - 1)), x, 0.0)


def _cuda_inputs(qkv, q, cu_queries, cu_seqlens, max_seqlen):
    """Queries, keys and values; edges and bounds; D; scale. The memory-efficient kernel wants no bound above T or R."""
    query, key, value = (_pad_heads(x) for x in _parts(qkv, q))
    edges, size = (cu_queries, cu_seqlens, min(max_seqlen, len(query)), min(max_seqlen, len(key))), qkv.shape[-1]
    return query, key, value, edges, size, size**-0.5


def _cuda_attention(qkv, q, cu_queries, cu_seqlens, max_seqlen):
    query, key, value, edges, size, scale = _cuda_inputs(qkv, q, cu_queries, cu_seqlens, max_seqlen)
    if qkv.dtype == torch.float32:  # flash has no fp32; the memory-efficient kernel has
        out, lse, *_ = torch.ops.aten._efficient_attention_forward(
            query[None], key[None], value[None], None, *edges, 0.0, 0, True, scale=scale
        )
        out = out[0]
    else:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, *edges, 0.0, False, False, scale=scale
        )
    return _zero_outside(out[..., :size], cu_queries), lse


def _cuda_attention_backward(grad, qkv, q, out, lse, cu_queries, cu_seqlens, max_seqlen):
    query, key, value, edges, size, scale = _cuda_inputs(qkv, q, cu_queries, cu_seqlens, max_seqlen)
    grad, out = _pad_heads(grad), _pad_heads(out)
    none = torch.zeros(2, dtype=torch.uint64 if qkv.dtype != torch.float32 else torch.int64, device=qkv.device)
    if qkv.dtype == torch.float32:
        parts = torch.ops.aten._efficient_attention_backward(
            grad[None], query[None], key[None], value[None], None, out[None], *edges,
            lse, 0.0, none[0], none[1], 0, False, scale=scale,
        )[:3]  # fmt: skip
        parts = [part[0] for part in parts]
    else:
        parts = torch.ops.aten._flash_attention_backward(
            grad, query, key, value, out, lse, *edges, 0.0, False, none, none, scale=scale
        )
    parts = [part[..., :size] for part in parts]
    joint = torch.stack(parts if q is None else parts[1:], dim=1)
    grads = [_zero_outside(joint, cu_seqlens)]
    return grads if q is None else [*grads, _zero_outside(parts[0], cu_queries)]
