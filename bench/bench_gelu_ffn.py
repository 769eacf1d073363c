"""The feed-forward layer gelu(x W1' + b1) W2': eager torch, torch.compile, ours."""

import pytest

from albert_fast.measure.eager import gelu_ffn as plain
from bench import harness


def case(shape) -> harness.Case:
    rows, hidden, feed = shape.tokens, shape.hidden_size, shape.intermediate_size
    inputs = {
        "x": harness.random(rows, hidden),
        "weight1": harness.random(feed, hidden, scale=hidden**-0.5),
        "bias1": harness.random(feed),
        "weight2": harness.random(hidden, feed, scale=feed**-0.5),
    }
    size = inputs["x"].element_size()
    weights = 2 * hidden * feed
    return harness.Case(
        op="gelu_ffn",
        shape=shape,
        inputs=inputs,
        implementations={"torch": plain, "compile": harness.compiled(plain), "ours": harness.our_ops().gelu_ffn},
        # read x, write z (pre-activation) and h = gelu(z), read h, write y; weights once
        bytes=(rows * (2 * hidden + 3 * feed) + weights) * size,
        # read grad twice and x, write dx; read z; write its gradient, read it twice; write and read h
        backward_bytes=(rows * (4 * hidden + 6 * feed) + 3 * weights) * size,
        flops=2 * rows * weights,
        backward_flops=4 * rows * weights,
    )


@harness.timed_by_stopwatch
@pytest.mark.parametrize("direction", harness.DIRECTIONS)
@pytest.mark.parametrize("implementation", harness.available("torch", "compile", "ours"))
@pytest.mark.parametrize("shape", harness.shapes(), ids=harness.shape_id)
def test_gelu_ffn(benchmark, shape, implementation, direction):
    harness.measure(benchmark, case(shape), implementation, direction)
