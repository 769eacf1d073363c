"""Variable-length attention as one opaque op: the kernels of attention_cuda.py; on CPU, flash attention by length.

Dimension letters: T tokens (packed), R queries, B sequences, N heads, D head size.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from albert_fast.attention_cuda import cuda_attention, cuda_attention_backward, log_sum_exp_shape, parts
from albert_fast.kernels.eager import differentiable, direct
from albert_fast.kernels.main_grad import placed
from albert_fast.kernels.pending_sums import pending


@dataclass
class Queries:
    """A subset of the tokens as queries, packed by sequence.

    tokens: int64 [R], ascending; cu_seqlens: int32 [B+1], sequence boundaries within `tokens`; order, inverse: int64
    [R], tokens[i] is positions[order[i]] and positions[i] is tokens[inverse[i]]; places: like tokens, but T for unused
    positions, whose entry in `tokens` is the last token.
    """

    tokens: Tensor
    cu_seqlens: Tensor
    inverse: Tensor
    order: Tensor
    places: Tensor

    @classmethod
    def pack(cls, positions: Tensor, cu_seqlens: Tensor, num_tokens: int) -> Queries:
        """Pack `positions`, int [R] in any order, indices into num_tokens tokens; num_tokens marks an unused one."""
        ascending, order = positions.sort()
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        cu_queries = torch.searchsorted(ascending, cu_seqlens, out_int32=True)
        return cls(ascending.long().clamp(max=num_tokens - 1), cu_queries, inverse, order, ascending)


def varlen_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, q: Tensor | None = None, cu_queries: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """softmax(q k.T / sqrt(D)) v within each packed sequence: qkv [T, 3, N, D] -> [T, N, D].

    An opaque op, so that tracing does not specialise on cu_seqlens. Differentiable in qkv and q.

    Args:
        cu_seqlens: int32 [B+1], from 0 to T; a repeated value is an empty sequence. Every token belongs to a sequence.
        max_seqlen: upper bound on the sequence lengths.
        q: [R, N, D], if only some tokens have queries; qkv is then [T, 2, N, D], the keys and values, and the result is
            [R, N, D].
        cu_queries: int32 [B+1], sequence boundaries within q, at most max_seqlen per sequence. Queries past its last
            value belong to no sequence; their results and gradients are zero.
        bias: flat, the bias that was already added to qkv. Its gradient (main_grad rule) is the sum of qkv's gradient
            over the tokens, which backward computes in the pass that writes qkv's gradient.
    """
    own = cu_seqlens if cu_queries is None else cu_queries
    return _attention(qkv, q, own, cu_seqlens, max_seqlen, bias)[0]


@torch.library.custom_op("albert_fast::varlen_attention", mutates_args=())
def _varlen_attention(
    qkv: Tensor, q: Tensor | None, cu_queries: Tensor, cu_seqlens: Tensor, max_seqlen: int, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output, and the log-sum-exp of each row of scores for backward."""
    attention = cuda_attention if qkv.is_cuda else cpu_attention
    return attention(qkv, q, cu_queries, cu_seqlens, max_seqlen)


@_varlen_attention.register_fake
def _outputs(
    qkv: Tensor, q: Tensor | None, cu_queries: Tensor, cu_seqlens: Tensor, max_seqlen: int, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Fake: log-sum-exp is [N, R] on CPU; on CUDA its shape depends on the chosen kernel."""
    rows, heads, size = parts(qkv, q)[0].shape
    shape: tuple[int, ...] = (heads, rows)
    if qkv.device.type == "cuda":
        shape = log_sum_exp_shape(qkv, q, len(cu_queries) - 1, max_seqlen)
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    return qkv.new_empty(rows, heads, size), qkv.new_empty(shape, dtype=dtype)


@torch.library.custom_op("albert_fast::varlen_attention_backward", mutates_args=("sums",))
def _varlen_attention_backward(
    grad: Tensor, qkv: Tensor, q: Tensor | None, out: Tensor, log_sum_exp: Tensor, cu_queries: Tensor,
    cu_seqlens: Tensor, max_seqlen: int, sums: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of qkv and q (empty without q), and partial sums of qkv's gradient over the tokens [P, 1, K N D].

    On CUDA, if `sums` is given, the partial sums are added to it and none are returned (P = 0).
    """
    if qkv.is_cuda:
        return cuda_attention_backward(grad, qkv, q, out, log_sum_exp, cu_queries, cu_seqlens, max_seqlen, sums)
    assert sums is None, "only CUDA kernels accumulate partial sums"
    return cpu_attention_backward(grad, qkv, q, out, log_sum_exp, cu_queries, cu_seqlens, max_seqlen)


@_varlen_attention_backward.register_fake
def _input_gradients(
    grad: Tensor, qkv: Tensor, q: Tensor | None, out: Tensor, log_sum_exp: Tensor, cu_queries: Tensor,
    cu_seqlens: Tensor, max_seqlen: int, sums: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    chunks = 1 if sums is None else 0
    if qkv.device.type == "cuda" and sums is None:
        from albert_fast.kernels.pack_gradients import chunk_count

        chunks = chunk_count(qkv)
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    partials = qkv.new_empty(chunks, 1, qkv[0].numel() if len(qkv) else 0, dtype=dtype)
    return *_empty_gradients(qkv, q), partials


def _empty_gradients(qkv: Tensor, q: Tensor | None) -> tuple[Tensor, Tensor]:
    grad_q = qkv.new_empty(0) if q is None else torch.empty_like(q, memory_format=torch.contiguous_format)
    return torch.empty_like(qkv, memory_format=torch.contiguous_format), grad_q


_backward = direct(_varlen_attention_backward)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, q, *sequences, ctx.max_seqlen, bias = inputs
    ctx.save_for_backward(qkv, q, *output, *sequences)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # otherwise autograd would fill zeros for the log-sum-exp
    ctx.bias_dtype, ctx.main_grad = getattr(bias, "dtype", None), getattr(bias, "main_grad", None)


def _attention_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    saved = ctx.saved_tensors  # read once: a checkpoint recomputes at each access
    n_rows = len(saved[0])
    earlier = None if ctx.main_grad is None else pending([ctx.main_grad], n_rows)
    grad_qkv, grad_q, sums = _backward(grad.contiguous(), *saved, ctx.max_seqlen, earlier)
    grad_bias = _bias_gradient(ctx, sums, n_rows) if earlier is None else None
    return grad_qkv, grad_q if ctx.needs_input_grad[1] else None, None, None, None, grad_bias


def _bias_gradient(ctx: Any, sums: Tensor, n_rows: int) -> Tensor | None:
    """Gradient of qkv's bias from partial sums [P, 1, K N D], under the main_grad rule; P = 1 on CPU."""
    if ctx.bias_dtype is None:
        return None
    if len(sums) > 1:
        from albert_fast.kernels.partial_sums import vector_gradients

        return vector_gradients(sums, [ctx.main_grad], [ctx.bias_dtype], n_rows)[0]
    return placed(ctx.main_grad, sums[0, 0], ctx.bias_dtype)


_attention = differentiable(_varlen_attention, _save_for_backward, _attention_backward)

# ----------------------------------------------------------------------------------------------------------------- CPU


class _Group:
    """The tokens of all sequences of one length: a slice if they are adjacent, else an index."""

    def __init__(self, starts: list[int], length: int):
        self.length = length
        together = all(b - a == length for a, b in pairwise(starts))
        index = torch.tensor(starts)[:, None] + torch.arange(length)
        self.rows = slice(starts[0], starts[-1] + length) if together else index.flatten()

    def take(self, x: Tensor) -> Tensor:
        """Gather x [T, N, ...] to [n, N, length, ...]; a view if possible."""
        return x[self.rows].unflatten(0, (-1, self.length)).transpose(1, 2)

    def put(self, x: Tensor, value: Tensor) -> None:
        """Scatter value [n, N, length, ...] to its rows of x [T, N, ...]."""
        x[self.rows] = value.transpose(1, 2).flatten(0, 1)


def _equal_lengths(cu_queries: list[int], cu_seqlens: list[int]) -> list[tuple[_Group, _Group]]:
    """Group sequences by their numbers of queries and keys."""
    alike: dict[tuple[int, int], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for (first, last), (start, end) in zip(pairwise(cu_queries), pairwise(cu_seqlens), strict=True):
        if last > first:
            query_starts, key_starts = alike[last - first, end - start]
            query_starts.append(first)
            key_starts.append(start)
    return [
        (_Group(query_starts, queries), _Group(key_starts, keys))
        for (queries, keys), (query_starts, key_starts) in alike.items()
    ]


def cpu_attention(
    qkv: Tensor, q: Tensor | None, cu_queries: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> tuple[Tensor, Tensor]:
    """PyTorch's flash attention for CPUs, one call for all sequences of the same length."""
    query, key, value = parts(qkv, q)
    out, log_sum_exp = _outputs(qkv, q, cu_queries, cu_seqlens, max_seqlen)
    own, ends = cu_queries.tolist(), cu_seqlens.tolist()
    if ends[-1] != len(qkv):
        raise ValueError(f"cu_seqlens ends at {ends[-1]} of {len(qkv)} tokens; put the rest into padding sequences")
    if q is not None:
        out[own[-1] :], log_sum_exp[:, own[-1] :] = 0, 0
    for queries, keys in _equal_lengths(own, ends):
        inputs = queries.take(query), keys.take(key), keys.take(value)
        part, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*inputs)[:2]
        queries.put(out, part)
        queries.put(log_sum_exp.t(), lse)
    return out, log_sum_exp


def cpu_attention_backward(
    grad: Tensor, qkv: Tensor, q: Tensor | None, out: Tensor, log_sum_exp: Tensor, cu_queries: Tensor,
    cu_seqlens: Tensor, max_seqlen: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grads = _empty_gradients(qkv, q)
    query, key, value = parts(qkv, q)
    if q is not None:  # for keys of sequences without queries, and queries outside all sequences
        for made in grads:
            made.zero_()
    made_parts = parts(grads[0], None if q is None else grads[1])
    for queries, keys in _equal_lengths(cu_queries.tolist(), cu_seqlens.tolist()):
        inputs = queries.take(query), keys.take(key), keys.take(value)
        g, o, lse = (queries.take(x) for x in (grad, out, log_sum_exp.t()))
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(g, *inputs, o, lse, 0.0, False)
        for group, made, part in zip((queries, keys, keys), made_parts, found, strict=True):
            group.put(made, part)
    sums = grads[0].flatten(1).sum(0, dtype=torch.promote_types(qkv.dtype, torch.float32))
    return *grads, sums[None, None]
