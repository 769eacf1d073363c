"""Rows of some tokens and the gradient of all, against indexing in fp64, by its laws, and under opcheck."""

import pytest
import torch
from support.gates import DEVICES, DTYPES, assert_within, random

from albert_fast import ops
from albert_fast.kernels.gather_rows import gather_rows

PLACES = {
    "some": [0, 3, 4, 11, 36],
    "all": list(range(37)),
    "the last": [36],
    "twice": [2, 5, 5, 5, 9, 9, 36, 36],
    "none": [37] * 6,
    "some and none": [1, 30, 36, 37, 37, 37],
    "nothing": [],
}


def inputs(name: str, columns: int, dtype=torch.float32, device="cpu", ids=torch.int32):
    places = torch.tensor(PLACES[name], dtype=ids, device=device)
    x = random(37, columns, seed=1, dtype=dtype, device=device).requires_grad_()
    return x, places.long().clamp(max=36), places, random(len(places), columns, seed=2, dtype=dtype, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("columns", [24, 1023])
@pytest.mark.parametrize("name", PLACES)
def test_equals_indexing(name, columns, dtype, device):
    x, tokens, places, grad = inputs(name, columns, dtype, device)
    rows = gather_rows(x, tokens, places)
    assert torch.equal(rows, x[tokens])
    (actual,) = torch.autograd.grad(rows, x, grad)
    real = places < 37
    expected = torch.zeros(37, columns, dtype=torch.float64, device=device)
    expected.index_add_(0, tokens[real], grad[real].double())
    assert_within("gradient", actual, expected, {torch.bfloat16: 2e-3, torch.float16: 3e-4}.get(dtype, 1e-7))
    if len(set(PLACES[name])) == len(PLACES[name]):
        assert torch.equal(actual, expected.to(dtype))


@pytest.mark.parametrize("ids", [torch.int32, torch.int64], ids=str)
def test_ids_of_either_width_and_reruns_give_the_same_bits(ids):
    x, tokens, places, grad = inputs("twice", 24, ids=ids)
    first, again = (torch.autograd.grad(gather_rows(x, tokens, places), x, grad)[0] for _ in range(2))
    assert torch.equal(first, again)
    plain = torch.autograd.grad(ops.gather_rows(x, tokens, places), x, grad)[0]
    torch.testing.assert_close(first, plain)


def test_equal_places_are_added_in_their_order():
    x, tokens, places, grad = inputs("twice", 24)
    swapped = grad[[0, 3, 1, 2, 4, 5, 6, 7]]
    first, other = (torch.autograd.grad(gather_rows(x, tokens, places), x, g)[0] for g in (grad, swapped))
    assert torch.equal(first[5], (grad[1] + grad[2]) + grad[3])
    assert torch.equal(other[5], (grad[3] + grad[1]) + grad[2])


def test_a_gradient_that_is_not_finite_stays_in_its_row():
    x, tokens, places, grad = inputs("some and none", 24)
    grad[1], grad[4] = torch.nan, torch.inf  # of token 30, and of none
    (actual,) = torch.autograd.grad(gather_rows(x, tokens, places), x, grad)
    assert actual[30].isnan().all()
    assert actual[[i for i in range(37) if i != 30]].isfinite().all()


def test_opcheck():
    _, _, places, grad = inputs("some and none", 24)
    torch.library.opcheck(torch.ops.albert_fast.gather_rows_backward, (grad, places, 37))


def test_refusals_name_the_shapes():
    x, tokens, places, _ = inputs("some", 24)
    with pytest.raises(ValueError, match=r"\[37, 24\], \[5\], \[4\]"):
        gather_rows(x, tokens, places[1:])


def test_the_model_reads_the_same_states_with_positions_in_any_order():
    torch.manual_seed(0)
    x = torch.randn(5, 3, requires_grad=True)
    order = torch.tensor([3, 0, 4, 1, 2])
    inverse = order.argsort()
    rows = ops.permute_rows(x, order, inverse)
    assert torch.equal(rows, x[order])
    grad = torch.randn(5, 3)
    assert torch.equal(torch.autograd.grad(rows, x, grad)[0], grad[inverse])
