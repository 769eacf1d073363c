"""Attention over full and mixed-length sequences: padded SDPA, eager and compiled, and our packed attention."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import harness


def edges_of(tokens: int, length: int, mixed: bool) -> list[int]:
    """Sequence boundaries: every sequence of `length`, or mixed: log-normal with a third of `length` as the median."""
    if not mixed:
        return list(range(0, tokens + 1, length))
    random, edges = np.random.default_rng(0), [0]
    while edges[-1] < tokens:
        drawn = int(np.clip(random.lognormal(np.log(length / 3), 0.8), 8, length))
        edges.append(min(edges[-1] + drawn, tokens))
    return edges


def case(shape, length: int, mixed: bool) -> harness.Case:
    edges = edges_of(shape.tokens, length, mixed)
    lengths = torch.tensor(edges).diff().to(harness.KIND)
    heads, size = shape.num_attention_heads, shape.hidden_size // shape.num_attention_heads
    longest = int(lengths.max())
    keep = torch.arange(longest, device=harness.KIND)[None, :] < lengths[:, None]
    cu_seqlens = torch.tensor(edges, dtype=torch.int32, device=harness.KIND)
    rows = keep.flatten().nonzero().flatten()
    mask = None if not mixed else keep[:, None, None, :]

    def padded(qkv: Tensor) -> Tensor:
        """SDPA as a padded model calls it: with a mask it also computes on padding, which the FLOPs do not count."""
        grid = qkv if not mixed else qkv.new_zeros(keep.numel(), *qkv.shape[1:]).index_copy(0, rows, qkv)
        q, k, v = grid.unflatten(0, keep.shape).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(0, 1)
        return out if not mixed else out[rows]

    def ours(qkv: Tensor) -> Tensor:
        return harness.our_ops().varlen_attention(qkv, cu_seqlens, length)

    inputs = {"qkv": harness.random(shape.tokens, 3, heads, size)}
    element = inputs["qkv"].element_size()
    squares = int((lengths.long() ** 2).sum())
    return harness.Case(
        op=f"attention {'mixed' if mixed else 'full'} S={length}",
        shape=shape,
        inputs=inputs,
        implementations={"torch": padded, "compile": harness.compiled(padded), "ours": ours},
        bytes=4 * shape.tokens * shape.hidden_size * element,
        backward_bytes=8 * shape.tokens * shape.hidden_size * element,
        flops=4 * squares * shape.hidden_size,
        backward_flops=8 * squares * shape.hidden_size,
        notes={"sequences": len(edges) - 1, "real_share": shape.tokens / keep.numel(), "max_seq_length": length},
    )


@harness.timed_by_stopwatch
@pytest.mark.parametrize("direction", harness.DIRECTIONS)
@pytest.mark.parametrize("implementation", harness.available("torch", "compile", "ours"))
@pytest.mark.parametrize(("length", "mixed"), [(128, False), (512, False), (512, True)], ids=["S128", "S512", "mixed"])
@pytest.mark.parametrize("shape", harness.shapes(), ids=harness.shape_id)
def test_attention(benchmark, shape, length, mixed, implementation, direction):
    if harness.KIND == "cpu" and (implementation == "compile" or shape.name != "base"):
        pytest.skip("CPU: torch.compile calls the same kernel as eager, and one model is enough")
    harness.measure(benchmark, case(shape, length, mixed), implementation, direction)
