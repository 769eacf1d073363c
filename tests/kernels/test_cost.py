"""What each op states to move is what the interpreter counts, argument by argument at ragged shapes."""

import pytest
import torch

from albert_fast.kernels import add_layer_norm, cost, gelu_ffn, partial_sums  # noqa: F401  they state their costs
from albert_fast.kernels.cost import cost_of
from bench.counting import counting


def count_and_state(name, *arguments):
    """Bytes that our kernels move in one call of the op, and what its costs say of our kernels."""
    with counting() as counted, torch.no_grad():
        result = getattr(torch.ops.albert_fast, name)(*arguments)
    moved = counted.total("read_bytes") + counted.total("written_bytes")
    stated = cost_of(f"albert_fast::{name}", *arguments)
    ours = [c for c in stated if c.name != "library"]
    assert {a.kernel for a in counted.arguments} == {c.name for c in ours}
    assert all(c.floor_bytes <= c.bytes for c in stated)
    return moved, sum(c.bytes for c in ours), result


def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype)


@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=lambda p: f"dropout{p}")
def test_layer_norm_moves_what_it_states(dropout):
    x, residual, vectors = empty(11, 312), empty(11, 312), [empty(312, dtype=torch.float32) for _ in range(3)]
    key = torch.zeros(2, dtype=torch.int64)
    moved, stated, (_, total, mean, rstd) = count_and_state(
        "add_layer_norm", x, vectors[0], residual, *vectors[1:], key, 1e-12, dropout, 0
    )
    assert moved == stated
    for grad_sum in (None, empty(11, 312)):
        arguments = (empty(11, 312), grad_sum, total, mean, rstd, vectors[1], key, dropout, 0)
        moved, stated, (*_, partials) = count_and_state("add_layer_norm_backward", *arguments)
        assert moved == stated
    for name, more in (("sum_partials", ()), ("accumulate_partials", (vectors,))):
        moved, stated, _ = count_and_state(name, partials, *more)
        assert moved == stated


@pytest.mark.parametrize("way", ["library", "pointer", "tma"])
def test_ffn_moves_what_it_states(way):
    x, weight1, bias1, weight2 = empty(37, 72), empty(200, 72), empty(200), empty(72, 200)
    moved, stated, (_, z) = count_and_state("gelu_ffn", x, weight1, bias1, weight2, False, way)
    assert moved == stated
    moved, stated, _ = count_and_state("gelu_ffn_backward", x, weight2, z, True, way)
    assert moved == stated


def test_an_op_without_a_statement_has_none():
    assert cost_of("aten::add", 1, 2) is None
