"""The ops of an ALBERT layer in idiomatic eager PyTorch, and timings of ours against them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.ops import Ops


def add_layer_norm(x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, layer_norm_bias: Tensor) -> Tensor:
    """LN(residual + x + bias), all [T, H]."""
    return F.layer_norm(residual + (x + bias), weight.shape, weight, layer_norm_bias, 1e-12)


def gelu_ffn(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor) -> Tensor:
    """gelu(x [T, H] @ weight1 [F, H].T + bias1) @ weight2 [H, F].T -> [T, H]."""
    return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2)


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of x [P, E] @ weight [V, E].T + bias at targets [P]."""
    return F.cross_entropy(F.linear(x, weight, bias).float(), targets)


@dataclass(frozen=True)
class Timing:
    """Median seconds of forward and backward of one op on `rows` rows."""

    op: str
    rows: int
    eager_seconds: float
    our_seconds: float

    @property
    def ratio(self) -> float:
        """Speedup over eager PyTorch."""
        return self.eager_seconds / self.our_seconds


def time_ops(config: AlbertConfig, tokens: int, ops: Ops, device: torch.device, dtype: torch.dtype) -> list[Timing]:
    """Time forward and backward of each fused op of `config` on `tokens` tokens, alternating with eager PyTorch.

    Args:
        ops: the implementations to time.
        dtype: dtype of activations and weights.
    """

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, device=device) * scale).to(dtype).requires_grad_()

    hidden, feed, words = config.hidden_size, config.intermediate_size, config.vocab_size
    rows = max(tokens * 15 // 100, 1)  # fraction of predicted tokens
    targets = torch.randint(words, (rows,), device=device)
    norm = (random(tokens, hidden), random(hidden), random(tokens, hidden), random(hidden), random(hidden))
    up, down = random(feed, hidden, scale=hidden**-0.5), random(hidden, feed, scale=feed**-0.5)
    ffn = (random(tokens, hidden), up, random(feed), down)
    head = (random(rows, hidden), random(words, hidden, scale=hidden**-0.5), random(words))
    weights = torch.ones(rows, device=device)

    def our_loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.linear_cross_entropy(x, weight, bias, targets, weights)[0]

    cases: list[tuple[str, int, tuple[Tensor, ...], Callable[..., Tensor], Callable[..., Tensor]]] = [
        ("bias + residual + LayerNorm", tokens, norm, add_layer_norm, lambda *x: ops.add_post_layer_norm(*x)[0]),
        ("feed-forward with GELU", tokens, ffn, gelu_ffn, ops.gelu_ffn),
        ("decoder + cross entropy", rows, head, partial(linear_cross_entropy, targets=targets), our_loss),
    ]
    return [Timing(name, count, *_medians(inputs, eager, ours)) for name, count, inputs, eager, ours in cases]


def _medians(inputs: tuple[Tensor, ...], *functions: Callable[..., Tensor], rounds: int = 7) -> list[float]:
    """Median seconds of forward and backward of each function, interleaved so that load on the machine affects all."""
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds + 2):
        for taken, function in zip(seconds, functions, strict=True):
            begun = time.perf_counter()
            out = function(*inputs)
            torch.autograd.grad(out, inputs, torch.ones_like(out))
            if out.is_cuda:
                torch.cuda.synchronize()
            if turn >= 2:  # the first two are warm-up
                taken.append(time.perf_counter() - begun)
    return [statistics.median(taken) for taken in seconds]
