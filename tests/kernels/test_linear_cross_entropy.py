"""Cross entropy in place over the logits against the plain op in fp64, by its laws, and under opcheck."""

import pytest
import torch
from support.gates import DEVICES, QUICK_DTYPES, assert_within, random, slow, with_main_grad

from albert_fast import ops
from albert_fast.kernels import linear_cross_entropy as fused

NAMES = ["loss", "accuracy", "grad_x", "grad_weight", "grad_bias"]
GATES = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}


def inputs(rows, width, vocabulary, dtype=torch.float32, device="cpu"):
    """x, weight, bias, targets, row_weights: some rows weigh nothing, and logits have the spread of training."""
    x = random(rows, width, seed=0, dtype=dtype, device=device)
    weight = (2 * random(vocabulary, width, seed=1, device=device) / width**0.5).to(dtype)
    bias = random(vocabulary, seed=2, dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator, dtype=torch.int32).to(device)
    row_weights = (torch.rand(rows, generator=generator) > 0.2).float().to(device)
    return [x, weight, bias, targets, row_weights]


def run(implementation, tensors, **arguments):
    leaves = [t.detach().clone().requires_grad_() for t in tensors[:3]]
    loss, accuracy = implementation.linear_cross_entropy(*leaves, *tensors[3:], **arguments)
    (3 * loss).backward()
    return dict(zip(NAMES, [loss.detach(), accuracy, *(leaf.grad for leaf in leaves)], strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", QUICK_DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "chunk"), [((11, 40, 531), None), ((70, 16, 37), 32), slow((3, 128, 9001), None)])
def test_equals_fp64_within_gates(shape, chunk, dtype, device):
    tensors = inputs(*shape, dtype, device)
    ours = run(fused, tensors, chunk=chunk)
    truth = run(ops, [*(t.double() for t in tensors[:3]), tensors[3], tensors[4].double()])
    for name in NAMES:
        assert_within(name, ours[name], truth[name], GATES[dtype])


def test_gradcheck():
    *leaves, targets, weights = inputs(6, 4, 9, torch.float64)
    leaves = [t.requires_grad_() for t in leaves]
    loss = lambda *a: fused.linear_cross_entropy(*a, targets, weights.double(), chunk=4)[0]  # noqa: E731
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)


def test_of_equal_logits_the_first_is_the_likeliest():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0]] * 3)
    targets = torch.tensor([1, 2, 0])
    _, correct, *_ = torch.ops.albert_fast.cross_entropy_(logits, targets, torch.ones(3), False)
    assert correct.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_non_finite_numbers_spread_as_in_pytorch(value):
    tensors = inputs(6, 8, 50)
    tensors[4].fill_(1.0)
    tensors[2][7] = value
    ours, plain = run(fused, tensors), run(ops, tensors)
    for name in ("loss", "grad_x", "grad_weight", "grad_bias"):
        assert torch.equal(ours[name].isnan(), plain[name].isnan()), name


def test_no_gradients_without_grad_and_zero_weights_give_zero():
    tensors = inputs(6, 8, 50)
    with torch.no_grad():
        evaluated = fused.linear_cross_entropy(*tensors)
    trained = run(fused, tensors)
    assert torch.equal(evaluated[0], trained["loss"])
    assert torch.equal(evaluated[1], trained["accuracy"])
    nothing = run(fused, [*tensors[:4], torch.zeros(6)])
    assert all(not value.any() for value in nothing.values())


def test_rerun_gives_the_same_bits_and_chunks_the_same_rows():
    tensors = inputs(150, 16, 300, torch.bfloat16)
    first, second, chunked = run(fused, tensors), run(fused, tensors), run(fused, tensors, chunk=64)
    for name in NAMES:
        assert torch.equal(first[name], second[name]), name
    assert torch.equal(first["grad_x"], chunked["grad_x"])


def test_main_grad_takes_both_parameters_gradients():
    tensors = inputs(20, 16, 100, torch.bfloat16)
    single = run(fused, [t.float() if t.is_floating_point() else t for t in tensors])
    parameters = [with_main_grad(t) for t in tensors[1:3]]
    for _ in range(2):
        (3 * fused.linear_cross_entropy(tensors[0], *parameters, *tensors[3:])[0]).backward()
    for parameter, name in zip(parameters, NAMES[3:], strict=True):
        assert parameter.grad is None
        assert_within(name, parameter.main_grad - 1, 2 * single[name], 6e-3)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_opcheck(with_gradient):
    logits, _, _, targets, weights = inputs(5, 33, 7)
    torch.library.opcheck(torch.ops.albert_fast.cross_entropy_, (logits, targets, weights, with_gradient))


def test_refusals_name_what_disagrees():
    x, weight, bias, targets, row_weights = inputs(6, 8, 50)
    with pytest.raises(ValueError, match=r"targets \[5\]"):
        fused.linear_cross_entropy(x, weight, bias, targets[:5], row_weights)
    with pytest.raises(ValueError, match="one dtype"):
        fused.linear_cross_entropy(x.bfloat16(), weight, bias, targets, row_weights)


def test_no_rows_is_no_work():
    result = run(fused, inputs(0, 8, 50))
    assert result["loss"] == result["accuracy"] == 0
    assert not result["grad_bias"].any()
