"""The masked-word head's transform against the plain op in fp64, by its laws, and under opcheck."""

import pytest
import torch
from support.gates import DEVICES, QUICK_DTYPES, assert_within, random, with_main_grad

from albert_fast import ops
from albert_fast.kernels import gelu_layer_norm as fused

NAMES = ["y", "grad_x", "grad_weight", "grad_bias", "grad_layer_norm_weight", "grad_layer_norm_bias"]
GATES = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1.5e-3}


def inputs(rows, hidden, width, dtype=torch.float32, device="cpu"):
    x = random(rows, hidden, seed=0, dtype=dtype, device=device)
    weight = (random(width, hidden, seed=1, device=device) / hidden**0.5).to(dtype)
    bias, gain, shift = (random(width, seed=s, dtype=dtype, device=device) for s in (2, 3, 4))
    return [x, weight, bias, gain + 1.0, shift]


def run(implementation, tensors, **arguments):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = implementation.linear_gelu_layer_norm(*leaves, **arguments)
    y.backward(random(*y.shape, seed=5, dtype=torch.bfloat16).to(y))
    return dict(zip(NAMES, [y.detach(), *(leaf.grad for leaf in leaves)], strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("dtype", QUICK_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(11, 24, 312), (21, 16, 100)], ids=str)
def test_equals_fp64_within_gates(shape, dtype, activation, device):
    tensors = inputs(*shape, dtype, device)
    ours = run(fused, tensors, activation=activation)
    truth = run(ops, [t.double() for t in tensors], activation=activation)
    for name in NAMES:
        assert ours[name].dtype == dtype
        # One of 3,432 sums rounds past relu's step in fp16 and takes the gradient of the other side, 3e-3 of the whole.
        assert_within(name, ours[name], truth[name], (3 if activation == "relu" else 1) * GATES[dtype])


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_gradcheck(activation):
    tensors = [t.requires_grad_() for t in inputs(9, 4, 5, torch.float64)]
    op = lambda *a: fused.linear_gelu_layer_norm(*a, activation=activation, epsilon=1e-5)  # noqa: E731
    assert torch.autograd.gradcheck(op, tensors, fast_mode=True)


def test_non_finite_numbers_spread_as_in_pytorch():
    tensors = inputs(6, 8, 40)
    tensors[0][2, 3] = torch.nan
    ours, plain = run(fused, tensors), run(ops, tensors)
    for name in NAMES:
        assert torch.equal(ours[name].isnan(), plain[name].isnan()), name


def test_rerun_gives_the_same_bits_and_permuted_rows_permuted_ones():
    x, *rest = inputs(20, 16, 40, torch.bfloat16)
    first, second = (run(fused, [x, *rest]) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in NAMES)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(7))
    assert torch.equal(fused.linear_gelu_layer_norm(x[order], *rest), first["y"][order])


def test_main_grad_takes_every_parameters_gradient():
    tensors = inputs(20, 16, 40, torch.bfloat16)
    single = run(fused, [t.float() for t in tensors])
    parameters = [with_main_grad(t) for t in tensors[1:]]
    grad = random(20, 40, seed=5, dtype=torch.bfloat16)
    for _ in range(2):
        fused.linear_gelu_layer_norm(tensors[0], *parameters).backward(grad)
    for parameter, name in zip(parameters, NAMES[2:], strict=True):
        assert parameter.grad is None
        assert_within(name, parameter.main_grad - 1, 2 * single[name], 8e-3)


def test_opcheck():
    tensors = [t.requires_grad_() for t in inputs(9, 16, 40)]
    torch.library.opcheck(torch.ops.albert_fast.linear_gelu_layer_norm, (*tensors, "gelu", 1e-5))


def test_refusals_name_what_disagrees():
    x, weight, *vectors = inputs(4, 8, 16)
    with pytest.raises(ValueError, match=r"\[15\]"):
        fused.linear_gelu_layer_norm(x, weight, vectors[0][:15], *vectors[1:])
    with pytest.raises(ValueError, match="swish"):
        fused.linear_gelu_layer_norm(x, weight, *vectors, activation="swish")


def test_no_rows_is_no_work():
    result = run(fused, inputs(0, 8, 16))
    assert result["y"].shape == (0, 16)
    assert not result["grad_bias"].any()
