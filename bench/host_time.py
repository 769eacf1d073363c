"""python -m bench.host_time [--json]: host overhead of each op in microseconds, forward and backward; needs no GPU.

Tensors are so small that arithmetic takes no time, and launches are skipped (Triton's binder and the driver add 5 to
15 microseconds each), which leaves the Python overhead that eager mode adds to the kernels. PyTorch's LayerNorm is
listed for comparison.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from albert_fast.files import strict_json
from bench.launches import unlaunched  # import first: turns the interpreter off

# isort: split
from albert_fast.ops import kernel_ops

ROWS, HIDDEN, WIDE, VOCABULARY = 8, 16, 32, 24
CALLS = 40


def parameter(*shape: int) -> Tensor:
    """A bf16 weight with an fp32 main_grad, as in training."""
    weight = torch.randn(shape).bfloat16().requires_grad_()
    weight.main_grad = torch.zeros(shape)  # type: ignore[attr-defined]
    return weight


def states() -> Tensor:
    return torch.randn(ROWS, HIDDEN).bfloat16().requires_grad_()


def ops() -> dict[str, Callable[[], Any]]:
    """A call of each op with its own inputs and dropout enabled."""
    ours, key = kernel_ops(), torch.tensor([7, 3])
    bias, scale, shift = (parameter(HIDDEN) for _ in range(3))
    x, residual, wide = states(), states(), parameter(WIDE)
    up, down, square = parameter(WIDE, HIDDEN), parameter(HIDDEN, WIDE), parameter(HIDDEN, HIDDEN)
    tables, ids = (parameter(16, HIDDEN), parameter(2, HIDDEN)), torch.zeros(ROWS, dtype=torch.int32)
    words, of_words = parameter(VOCABULARY, HIDDEN), parameter(VOCABULARY)
    dropout: dict[str, Any] = dict(dropout=0.1, key=key, site=3)
    return {
        "torch layer_norm": lambda: torch.nn.functional.layer_norm(x, (HIDDEN,), scale, shift),
        "add_post_layer_norm": lambda: ours.add_post_layer_norm(x, bias, residual, scale, shift, **dropout)[0],
        "add_pre_layer_norm": lambda: ours.add_pre_layer_norm(x, bias, residual, scale, shift, **dropout)[0],
        "embed_layer_norm": lambda: ours.embed_layer_norm(x, ids, ids, *tables, scale, shift, **dropout),
        "gelu_ffn": lambda: ours.gelu_ffn(x, up, wide, down),
        "linear_gelu_layer_norm": lambda: ours.linear_gelu_layer_norm(x, square, bias, scale, shift),
        "linear_cross_entropy": lambda: ours.linear_cross_entropy(x, words, of_words, ids, torch.ones(ROWS))[0],
        "linear": lambda: ours.linear(x, square, bias),
    }  # fmt: skip


def microseconds(call: Callable[[], Any], rounds: int) -> float:
    """The minimum over rounds of the mean time of a call; the other rounds include time taken by other processes."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        taken.append((time.perf_counter() - started) / CALLS)
    return 1e6 * min(taken)


def rows(rounds: int) -> list[dict[str, Any]]:
    """Per op: microseconds of forward without autograd, and of forward + backward."""
    found = []
    with unlaunched():
        for name, call in ops().items():

            def both(call: Callable[[], Any] = call) -> None:
                out = call()
                out.backward(torch.ones_like(out))

            forward = microseconds(torch.no_grad()(call), rounds)
            found.append({"op": name, "forward": forward, "forward+backward": microseconds(both, rounds)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON list of rows and nothing else")
    parser.add_argument(
        "--rounds", type=int, default=15, help=f"rounds of {CALLS} calls; the fastest counts (default: 15)"
    )
    options = parser.parse_args()
    found = rows(options.rounds)
    if options.json:
        print(strict_json(found, indent=1))
        return
    print(f"{'':24} forward  forward+backward, microseconds of the host")
    for row in found:
        print(f"{row['op']:24} {row['forward']:7.1f} {row['forward+backward']:9.1f}")


if __name__ == "__main__":
    main()
