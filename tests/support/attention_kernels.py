"""CPU replacements for CUDA's attention kernels, with NaN wherever the kernels leave memory uninitialized.

They take the arguments of the aten ops, make the kernels' checks and compute each sequence in fp32, with probabilities
and results rounded to the input dtype. Uninitialized are the rows of no sequence and, in the log-sum-exp of the
memory-efficient kernel, the entries past each sequence. A sequence with keys but no queries gets zero gradients, as
from both kernels.
"""

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.attention as registry
from torch import Tensor

from albert_fast import attention_cuda
from albert_fast.attention import Queries

CU_SEQLENS = torch.tensor(
    [0, 0, 7, 20, 20, 33, 40, 40], dtype=torch.int32
)  # with empty sequences at the start, in the middle and at the end
TOKENS, LONGEST = 40, 13


class StandIns:
    """torch.ops.aten with the four CUDA attention ops replaced."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.aten, name)

    def _flash_attention_forward(
        self, query, key, value, cu_queries, cu_keys, max_q, max_k, dropout, causal, debug, *, scale
    ):  # fmt: skip
        assert (dropout, causal, debug) == (0.0, False, False)
        self._check("flash forward", (query, key, value), cu_queries, cu_keys, max_q, max_k)
        return *self._forward(query, key, value, cu_queries, cu_keys, scale), None, None, None

    def _forward(self, query, key, value, cu_queries, cu_keys, scale) -> tuple[Tensor, Tensor]:
        out = torch.full(query.shape, math.nan, dtype=query.dtype)
        log_sum_exp = torch.full((query.shape[1], len(query)), math.nan)
        for rows, columns in _sequences(cu_queries, cu_keys):
            scores = _scores(query[rows], key[columns], scale)
            share = scores.softmax(-1).to(value.dtype).float()
            out[rows] = torch.einsum("nqk,knd->qnd", share, value[columns].float()).to(out.dtype)
            log_sum_exp[:, rows] = scores.logsumexp(-1)
        return out, log_sum_exp

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
        inputs = query[0], key[0], value[0]
        self._check("efficient forward", inputs, cu_queries, cu_keys, max_q, max_k)
        out, flat = self._forward(*inputs, cu_queries, cu_keys, scale)
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
        grads = _gradients(grad[0], *inputs, out[0], parts, cu_queries, cu_keys, scale)
        return (*(x[None] for x in grads), None)

    def _check(self, call: str, inputs, cu_queries, cu_keys, max_q: int, max_k: int) -> None:
        self.calls.append(call)
        assert cu_queries.dtype == cu_keys.dtype == torch.int32
        assert len(cu_queries) == len(cu_keys)
        for x in inputs:
            assert x.shape[-1] % 8 == 0
            assert x.stride(-1) == 1
        assert max(cu_queries.diff()) <= max_q
        assert max(cu_keys.diff()) <= max_k


def attention_inputs(head_size: int, dtype: torch.dtype, some: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """(qkv, q, cu_seqlens of the queries), unordered; one sequence has no query and two queries have no sequence."""
    torch.manual_seed(0)
    qkv = torch.randn(TOKENS, 3, 2, head_size).to(dtype)
    if not some:
        return qkv, None, CU_SEQLENS
    queries = Queries.pack(torch.tensor([32, 0, TOKENS, 20, 3, TOKENS, 39]), CU_SEQLENS, TOKENS)
    return qkv[:, 1:], qkv[queries.tokens, 0].contiguous(), queries.cu_seqlens


@contextmanager
def cuda_bodies(monkeypatch: Any, kernels: Any = None) -> Iterator[StandIns]:
    """In the block albert_fast.attention_cuda uses the replacements (or `kernels`); yields them."""
    kernels = kernels or StandIns()
    ops = SimpleNamespace(aten=kernels, albert_fast=torch.ops.albert_fast)
    names = {name: getattr(torch, name) for name in ("arange", "empty", "int64", "uint64", "where")}
    with monkeypatch.context() as patch:
        patch.setattr(attention_cuda, "torch", SimpleNamespace(**names, ops=ops))
        yield kernels


@contextmanager
def flash_3(monkeypatch: Any) -> Iterator[list[str]]:
    """In the block FlashAttention 3 appears to be installed; yields the list of times it was switched on and off."""
    switched: list[str] = []

    class Handle:
        def remove(self) -> None:
            switched.append("off")

    def register() -> Handle:
        switched.append("on")
        return Handle()

    spec = importlib.machinery.ModuleSpec("flash_attn_interface", None)
    with monkeypatch.context() as patch:
        patch.setattr(attention_cuda, "find_spec", lambda name: spec if name == "flash_attn_interface" else None)
        patch.setitem(registry._registry._FLASH_ATTENTION_IMPLS, "FA3", register)
        yield switched
    registry._registry._FLASH_ATTENTION_ACTIVE = None


def _sequences(cu_queries: Tensor, cu_keys: Tensor) -> Iterator[tuple[slice, slice]]:
    for (first, last), (start, end) in zip(pairwise(cu_queries.tolist()), pairwise(cu_keys.tolist()), strict=True):
        if last > first:
            yield slice(first, last), slice(start, end)


def _scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    return torch.einsum("qnd,knd->nqk", query.float(), key.float()) * scale


def _gradients(grad, query, key, value, out, log_sum_exps, cu_queries, cu_keys, scale) -> list[Tensor]:
    grad_q, grad_k, grad_v = (torch.full(x.shape, math.nan, dtype=x.dtype) for x in (query, key, value))
    for (first, last), (start, end) in zip(pairwise(cu_queries.tolist()), pairwise(cu_keys.tolist()), strict=True):
        if last == first:
            grad_k[start:end], grad_v[start:end] = 0, 0
    for (rows, columns), log_sum_exp in zip(_sequences(cu_queries, cu_keys), log_sum_exps, strict=True):
        q, k, v, g, o = (x.float() for x in (query[rows], key[columns], value[columns], grad[rows], out[rows]))
        share = (_scores(q, k, scale) - log_sum_exp[..., None]).exp()
        grad_score = share * (torch.einsum("qnd,knd->nqk", g, v) - (g * o).sum(-1).t()[..., None]) * scale
        share, grad_score = (x.to(query.dtype).float() for x in (share, grad_score))
        grad_q[rows] = torch.einsum("nqk,knd->qnd", grad_score, k).to(query.dtype)
        grad_k[columns] = torch.einsum("nqk,qnd->knd", grad_score, q).to(query.dtype)
        grad_v[columns] = torch.einsum("nqk,qnd->knd", share, g).to(query.dtype)
    return [grad_q, grad_k, grad_v]
