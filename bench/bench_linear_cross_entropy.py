"""MLM decoder + cross entropy at 15% of the tokens: eager torch, torch.compile, ours in chunks of rows."""

import pytest
import torch
import torch.nn.functional as F

from bench import harness

VOCABULARY, EMBEDDING = 21128, 128


def plain(x, weight, bias, targets, row_weights):
    loss = F.cross_entropy(F.linear(x, weight, bias).float(), targets, reduction="none")
    return (loss * row_weights).sum() / row_weights.sum()


def ours(x, weight, bias, targets, row_weights):
    return harness.our_ops().linear_cross_entropy(x, weight, bias, targets, row_weights)[0]


def case(shape) -> harness.Case:
    rows = shape.tokens * 15 // 100
    inputs = {
        "x": harness.random(rows, EMBEDDING),
        "weight": harness.random(VOCABULARY, EMBEDDING, scale=EMBEDDING**-0.5),
        "bias": harness.random(VOCABULARY, scale=0.1),
        "targets": torch.randint(0, VOCABULARY, (rows,), device=harness.KIND),
        "row_weights": torch.ones(rows, device=harness.KIND),
    }
    size = inputs["x"].element_size()
    weights = VOCABULARY * EMBEDDING
    return harness.Case(
        op="linear_cross_entropy",
        shape=shape,
        inputs=inputs,
        implementations={"torch": plain, "compile": harness.compiled(plain), "ours": ours},
        bytes=(rows * EMBEDDING + weights) * size,  # ideal: logits never reach memory
        backward_bytes=(2 * rows * EMBEDDING + 2 * weights) * size,
        flops=2 * rows * weights,
        backward_flops=4 * rows * weights,
        notes={"vocab_size": VOCABULARY, "predictions": rows},
    )


# The embedding size is the same in every preset, so one model covers all of them.
@harness.timed_by_stopwatch
@pytest.mark.parametrize("direction", harness.DIRECTIONS)
@pytest.mark.parametrize("implementation", harness.available("torch", "compile", "ours"))
@pytest.mark.parametrize("shape", [s for s in harness.shapes() if s.name == "base"], ids=harness.shape_id)
def test_linear_cross_entropy(benchmark, shape, implementation, direction):
    harness.measure(benchmark, case(shape), implementation, direction)
