"""Reference attention, one sequence at a time, for any device and dtype."""

from itertools import pairwise

import torch
from torch import Tensor

from albert_fast.ops.products import upcast_parameter


def plain_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, q: Tensor | None = None, cu_queries: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """softmax(q k.T / sqrt(D)) v within each packed sequence; arguments as in `varlen_attention`.

    It reads cu_seqlens on the host, so it cannot be captured, and saves all scores for backward.
    """
    if bias is not None:  # already part of qkv: adds 0, but gives bias its gradient
        upcasted = upcast_parameter(bias)
        qkv = (qkv + (upcasted - upcasted.detach()).view(qkv.shape[1:])).to(qkv.dtype)
    query, key, value = qkv.unbind(1) if q is None else (q, *qkv.unbind(1))
    own = cu_seqlens if cu_queries is None else cu_queries
    made = []
    for (first, last), (start, end) in zip(pairwise(own.tolist()), pairwise(cu_seqlens.tolist()), strict=True):
        if last > first:
            scores = torch.einsum("qnd,knd->nqk", query[first:last], key[start:end]) * query.shape[-1] ** -0.5
            made.append(torch.einsum("nqk,knd->qnd", scores.softmax(-1), value[start:end]))
    rest = len(query) - sum(map(len, made))  # queries outside all sequences
    return torch.cat([*made, torch.zeros_like(query[:rest])])
