"""Plain stand-ins for CUDA's attention kernels on CPU, which leave NaN wherever the kernels leave memory unwritten.

They take the arguments of the aten ops, check what the kernels check, and compute each sequence by its equations in the
inputs' dtype. Unwritten are rows of no sequence and, in the log-sum-exp of the memory-efficient kernel, what lies past
each sequence. A sequence that has keys and no query gets zero gradients, as both kernels write them.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


class StandIns:
    """torch.ops.aten, but for the four attention ops of CUDA."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.aten, name)

    def _flash_attention_forward(
        self, query, key, value, cu_queries, cu_keys, max_q, max_k, dropout, causal, debug, *, scale
    ):  # fmt: skip
        assert (dropout, causal, debug) == (0.0, False, False)
        self._check("flash forward", (query, key, value), cu_queries, cu_keys, max_q, max_k)
        out = torch.full(query.shape, math.nan, dtype=query.dtype)
        log_sum_exp = torch.full((query.shape[1], len(query)), math.nan)
        for rows, columns in _sequences(cu_queries, cu_keys):
            scores = _scores(query[rows], key[columns], scale)
            out[rows] = torch.einsum("nqk,knd->qnd", scores.softmax(-1), value[columns])
            log_sum_exp[:, rows] = scores.logsumexp(-1).float()
        return out, log_sum_exp, None, None, None

    def _flash_attention_backward(
        self, grad, query, key, value, out, log_sum_exp, cu_queries, cu_keys, max_q, max_k, dropout, causal, seed,
        offset, *, scale,
    ):  # fmt: skip
        assert (dropout, causal, seed.dtype) == (0.0, False, torch.uint64)
        assert log_sum_exp.shape == (query.shape[1], len(query))
        self._check("flash backward", (query, key, value), cu_queries, cu_keys, max_q, max_k)
        parts = (log_sum_exp[:, rows] for rows, _ in _sequences(cu_queries, cu_keys))
        return _gradients(grad, query, key, value, out, parts, cu_queries, cu_keys, scale)

    def _efficient_attention_forward(
        self, query, key, value, bias, cu_queries, cu_keys, max_q, max_k, dropout, mask, with_log_sum_exp, *, scale
    ):  # fmt: skip
        assert (bias, dropout, mask, with_log_sum_exp) == (None, 0.0, 0, True)
        out, flat, *_ = self._flash_attention_forward(
            query[0], key[0], value[0], cu_queries, cu_keys, max_q, max_k, 0.0, False, False, scale=scale
        )
        self.calls[-1] = "efficient forward"
        assert max_q <= query.shape[1]
        assert max_k <= key.shape[1]
        log_sum_exp = torch.full((len(cu_queries) - 1, query.shape[2], -(-max_q // 32) * 32), math.nan)
        for index, (start, end) in enumerate(pairwise(cu_queries.tolist())):
            log_sum_exp[index, :, : end - start] = flat[:, start:end]
        return out[None], log_sum_exp, None, None, max_q, max_k

    def _efficient_attention_backward(
        self, grad, query, key, value, bias, out, cu_queries, cu_keys, max_q, max_k, log_sum_exp, dropout, seed, offset,
        mask, bias_needs_grad, *, scale,
    ):  # fmt: skip
        assert (bias, dropout, seed.dtype, mask, bias_needs_grad) == (None, 0.0, torch.int64, 0, False)
        assert log_sum_exp.shape == (len(cu_queries) - 1, query.shape[2], -(-max_q // 32) * 32)
        inputs = [x[0] for x in (query, key, value)]
        self._check("efficient backward", inputs, cu_queries, cu_keys, max_q, max_k)
        lengths = enumerate(pairwise(cu_queries.tolist()))
        parts = (log_sum_exp[i, :, : end - start] for i, (start, end) in lengths if end > start)
        made = _gradients(grad[0], *inputs, out[0], parts, cu_queries, cu_keys, scale)
        return (*(part[None] for part in made), None)

    def _check(self, call: str, inputs, cu_queries, cu_keys, max_q: int, max_k: int) -> None:
        self.calls.append(call)
        assert cu_queries.dtype == cu_keys.dtype == torch.int32
        assert len(cu_queries) == len(cu_keys)
        for x in inputs:
            assert x.shape[-1] % 8 == 0
            assert x.stride(-1) == 1
        assert max(cu_queries.diff()) <= max_q
        assert max(cu_keys.diff()) <= max_k


def _sequences(cu_queries: Tensor, cu_keys: Tensor) -> Iterator[tuple[slice, slice]]:
    for (first, last), (start, end) in zip(pairwise(cu_queries.tolist()), pairwise(cu_keys.tolist()), strict=True):
        if last > first:
            yield slice(first, last), slice(start, end)


def _scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    return torch.einsum("qnd,knd->nqk", query, key) * scale


def _gradients(grad, query, key, value, out, log_sum_exps, cu_queries, cu_keys, scale) -> list[Tensor]:
    grad_q, grad_k, grad_v = (torch.full(x.shape, math.nan, dtype=x.dtype) for x in (query, key, value))
    for (first, last), (start, end) in zip(pairwise(cu_queries.tolist()), pairwise(cu_keys.tolist()), strict=True):
        if last == first:
            grad_k[start:end], grad_v[start:end] = 0, 0
    for (rows, columns), log_sum_exp in zip(_sequences(cu_queries, cu_keys), log_sum_exps, strict=True):
        share = (_scores(query[rows], key[columns], scale) - log_sum_exp[..., None]).exp().to(query.dtype)
        grad_share = torch.einsum("qnd,knd->nqk", grad[rows], value[columns])
        grad_score = share * (grad_share - (grad[rows] * out[rows]).sum(-1).t()[..., None]) * scale
        grad_q[rows] = torch.einsum("nqk,knd->qnd", grad_score, key[columns])
        grad_k[columns] = torch.einsum("nqk,qnd->knd", grad_score, query[rows])
        grad_v[columns] = torch.einsum("nqk,qnd->knd", share, grad[rows])
    return [grad_q, grad_k, grad_v]
