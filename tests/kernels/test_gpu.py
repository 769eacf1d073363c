"""What only a device shows: the same correctness compiled, replays equal to eager bits, nothing a sanitizer finds.

The gates of test_add_layer_norm.py and test_gelu_ffn.py also run on the device where there is one.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.gates import assert_within, random

from albert_fast import ops
from albert_fast.config import TrainConfig
from albert_fast.optimizer import FlatParameters, Optimizer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SHAPES = [(1, 312), (37, 768), (4099, 768), (1000, 2048), (129, 4096), (1023, 1023)]


def layer_norm_inputs(tokens, hidden, dtype):
    shapes = [(tokens, hidden), (hidden,), (tokens, hidden), (hidden,), (hidden,)]
    return [random(*shape, seed=i, dtype=dtype, device="cuda") for i, shape in enumerate(shapes)]


def outputs_and_gradients(op, tensors, **arguments):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = op(*leaves, **arguments)
    y.backward(random(*y.shape, seed=9, dtype=torch.bfloat16, device="cuda").to(y))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=lambda p: f"dropout{p}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"T{s[0]}-H{s[1]}")
def test_layer_norm_equals_fp64(shape, dtype, dropout):
    from albert_fast.kernels.add_layer_norm import add_layer_norm

    tensors, key = layer_norm_inputs(*shape, dtype), torch.tensor([7, 3], device="cuda")
    ours = outputs_and_gradients(add_layer_norm, tensors, dropout=dropout, key=key)
    wide = [t.double() for t in tensors]
    truth = outputs_and_gradients(ops.add_layer_norm, wide, dropout=dropout, key=key)
    gate = {torch.float32: 5e-7, torch.bfloat16: 3.5e-3, torch.float16: 5e-4}[dtype]
    for i, (actual, expected) in enumerate(zip(ours, truth, strict=True)):
        assert_within(f"output {i}", actual, expected, gate)
    again = outputs_and_gradients(add_layer_norm, tensors, dropout=dropout, key=key)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("implementation", ["library", "pointer", "tma"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 312, 1248), (1000, 768, 3072), (8192, 768, 3072), (300, 2048, 8192)], ids=str)
def test_ffn_equals_fp64(shape, dtype, implementation, activation):
    from albert_fast.kernels.gelu_ffn import gelu_ffn

    tokens, hidden, wide = shape
    x = random(tokens, hidden, seed=0, dtype=dtype, device="cuda")
    weight1 = random(wide, hidden, seed=1, device="cuda") / hidden**0.5
    weight2 = random(hidden, wide, seed=3, device="cuda") / wide**0.5
    tensors = [x, weight1.to(dtype), random(wide, seed=2, dtype=dtype, device="cuda"), weight2.to(dtype)]
    ours = outputs_and_gradients(gelu_ffn, tensors, activation=activation, implementation=implementation)
    truth = outputs_and_gradients(ops.gelu_ffn, [t.double() for t in tensors], activation=activation)
    for i, (actual, expected) in enumerate(zip(ours, truth, strict=True)):
        assert_within(f"output {i}", actual, expected, 6e-3 if dtype == torch.bfloat16 else 1e-3)


def test_a_captured_graph_replays_eager_bits_and_draws_new_masks():
    from albert_fast.kernels.add_layer_norm import add_layer_norm
    from albert_fast.kernels.gelu_ffn import gelu_ffn

    x, bias, residual, weight, layer_norm_bias = layer_norm_inputs(512, 768, torch.bfloat16)
    weight1, weight2 = (random(*s, seed=i, dtype=torch.bfloat16, device="cuda") / 28
                        for i, s in enumerate([(3072, 768), (768, 3072)]))  # fmt: skip
    bias1 = torch.zeros(3072, dtype=torch.bfloat16, device="cuda")
    parameters = [bias, weight, layer_norm_bias, weight1, weight2, bias1]
    for parameter in parameters:
        parameter.requires_grad_()
        parameter.main_grad = torch.zeros_like(parameter, dtype=torch.float32)
    key = torch.tensor([7, 0], device="cuda")

    def run(implementation="tma"):
        a = add_layer_norm(x, bias, residual, weight, layer_norm_bias, dropout=0.1, key=key, site=1)
        f = gelu_ffn(a, weight1, bias1, weight2, implementation=implementation)
        y = add_layer_norm(f, bias, a, weight, layer_norm_bias, dropout=0.1, key=key, site=2)
        y.backward(torch.ones_like(y))
        key[1] += 1
        return y.detach()

    def state():
        return [key.clone(), *(p.main_grad.clone() for p in parameters)]

    def reset():
        key.copy_(torch.tensor([7, 0]))
        for parameter in parameters:
            parameter.main_grad.zero_()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    reset()
    eager = [(run().clone(), state()) for _ in range(3)]
    graph = torch.cuda.CUDAGraph()
    reset()
    with torch.cuda.graph(graph):
        y = run()
    reset()
    for expected, expected_state in eager:
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, expected)
        for actual, wanted in zip(state(), expected_state, strict=True):
            assert torch.equal(actual, wanted)
    assert not torch.equal(eager[0][0], eager[1][0])


@pytest.mark.parametrize("kind", ["lamb", "adamw"])
def test_a_captured_update_replays_eager_bits_and_moves_on(kind):
    shapes = {"query_key_value": (3 * 768, 768), "words": (21128, 128), "bias": (21128,)}

    def make() -> Optimizer:
        model = torch.nn.Module()
        for i, (name, shape) in enumerate(shapes.items()):
            model.register_parameter(name, torch.nn.Parameter(random(*shape, seed=i, device="cuda")))
        config = TrainConfig(optimizer=kind, max_steps=9, warmup_steps=3, learning_rate=0.01)
        return Optimizer(FlatParameters(model, torch.bfloat16), config, ops.get_ops("triton"))

    eager, captured = make(), make()
    warm = make()
    for _ in range(3):
        warm.update(2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.update(2)
    for index in range(5):
        grad = random(len(eager.flat.grad), seed=10 + index, device="cuda")
        if index == 2:
            grad[77] = torch.nan
        eager.flat.grad.copy_(grad)
        captured.flat.grad.copy_(grad)
        eager.update(2)
        graph.replay()
        assert torch.equal(captured.flat.master, eager.flat.master)
        assert torch.equal(captured.flat.compute, captured.flat.master.bfloat16())
    assert (captured.steps, captured.updates) == (5, 4)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_compute_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.path.exists(sanitizer):
        pytest.skip("compute-sanitizer is not installed")
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "support.every_call", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-4000:]
