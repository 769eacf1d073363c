"""Bias + residual add + LayerNorm, as after attention and feed-forward: eager torch, torch.compile, Liger, ours."""

import pytest

from albert_fast.measure.eager import add_layer_norm as plain
from bench import harness


def liger(x, bias, residual, weight, layer_norm_bias):
    from liger_kernel.transformers.functional import liger_layer_norm

    return liger_layer_norm(residual + (x + bias), weight, layer_norm_bias, 1e-12)


def case(shape) -> harness.Case:
    rows, hidden = shape.tokens, shape.hidden_size
    inputs = {
        "x": harness.random(rows, hidden),
        "bias": harness.random(hidden),
        "residual": harness.random(rows, hidden),
        "weight": harness.random(hidden),
        "layer_norm_bias": harness.random(hidden),
    }
    size = inputs["x"].element_size()
    return harness.Case(
        op="add_layer_norm",
        shape=shape,
        inputs=inputs,
        implementations={
            "torch": plain,
            "compile": harness.compiled(plain),
            "liger": liger,
            "ours": lambda **inputs: harness.our_ops().add_post_layer_norm(**inputs)[0],
        },
        bytes=4 * rows * hidden * size,  # x, residual in; sum and output out
        backward_bytes=3 * rows * hidden * size,  # gradient and sum in; one gradient out, shared by x and residual
    )


@harness.timed_by_stopwatch
@pytest.mark.parametrize("direction", harness.DIRECTIONS)
@pytest.mark.parametrize("implementation", harness.available("torch", "compile", "liger", "ours"))
@pytest.mark.parametrize("shape", harness.shapes(), ids=harness.shape_id)
def test_add_layer_norm(benchmark, shape, implementation, direction):
    harness.measure(benchmark, case(shape), implementation, direction)
