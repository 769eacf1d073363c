"""The embeddings' sum, LayerNorm and dropout against the plain op in fp64, by its laws, and under opcheck."""

import pytest
import torch
from support.gates import DEVICES, QUICK_DTYPES, assert_within, random

from albert_fast import ops
from albert_fast.kernels import embed_layer_norm as fused

NAMES = ["y", "grad_word", "grad_positions", "grad_types", "grad_weight", "grad_layer_norm_bias"]
GATES = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}


def inputs(tokens, hidden, dtype=torch.float32, device="cpu", positions=50):
    """The two ids, then word, position table, type table, weight, layer_norm_bias."""
    generator = torch.Generator().manual_seed(9)
    ids = [torch.randint(0, n, (tokens,), generator=generator, dtype=torch.int32).to(device) for n in (positions, 2)]
    shapes = [(tokens, hidden), (positions, hidden), (2, hidden), (hidden,), (hidden,)]
    return ids, [random(*shape, seed=i, dtype=dtype, device=device) for i, shape in enumerate(shapes)]


def run(implementation, ids, tensors, dropout=0.0, main_grads=False):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    for leaf in leaves[1:] if main_grads else []:
        leaf.main_grad = torch.zeros_like(leaf, dtype=torch.float32)
    key = torch.tensor([1234, 5], device=ids[0].device)
    y = implementation.embed_layer_norm(leaves[0], *ids, *leaves[1:], 1e-5, dropout, key, 0)
    y.backward(random(*y.shape, seed=8, dtype=torch.bfloat16).to(y))
    grads = [leaf.grad if leaf.grad is not None else leaf.main_grad for leaf in leaves]
    return dict(zip(NAMES, [y.detach(), *grads], strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=lambda p: f"dropout{p}")
@pytest.mark.parametrize("dtype", QUICK_DTYPES, ids=str)
def test_equals_fp64_within_gates(dtype, dropout, device):
    ids, tensors = inputs(21, 312, dtype, device)
    ours = run(fused, ids, tensors, dropout)
    truth = run(ops, ids, [t.double() for t in tensors], dropout)
    for name in NAMES:
        assert ours[name].dtype == dtype
        assert_within(name, ours[name], truth[name], GATES[dtype])


def test_gradcheck():
    ids, tensors = inputs(6, 5, torch.float64, positions=4)
    leaves = [t.requires_grad_() for t in tensors]
    op = lambda w, *p: fused.embed_layer_norm(w, *ids, *p, 1e-5, 0.5, torch.tensor([1, 2]), 0)  # noqa: E731
    assert torch.autograd.gradcheck(op, leaves, fast_mode=True)


def test_main_grad_takes_every_parameters_gradient_and_reruns_give_the_same_bits():
    ids, tensors = inputs(21, 40, torch.bfloat16)
    single = run(fused, ids, [t.float() for t in tensors], 0.1)
    ours, again = (run(fused, ids, tensors, 0.1, main_grads=True) for _ in range(2))
    for name in NAMES:
        assert_within(name, ours[name], single[name], 8e-3)
        assert torch.equal(ours[name], again[name])


def test_non_finite_numbers_spread_as_in_pytorch():
    ids, tensors = inputs(6, 40)
    tensors[0][2, 3] = torch.nan
    ours, plain = run(fused, ids, tensors, 0.5), run(ops, ids, tensors, 0.5)
    assert ours["grad_types"].isnan().any()  # of every type: a small table's gradient is a product, as in the plain op
    for name in set(NAMES) - {"grad_types"}:
        assert torch.equal(ours[name].isnan(), plain[name].isnan()), name


def test_opcheck():
    ids, (word, *parameters) = inputs(9, 40)
    leaves = [t.requires_grad_() for t in (word, *parameters)]
    arguments = (leaves[0], *ids, *leaves[1:], torch.tensor([1, 2]), 1e-5, 0.1, 0)
    torch.library.opcheck(torch.ops.albert_fast.embed_layer_norm, arguments)


def test_refusals_name_what_disagrees():
    ids, (word, positions, *rest) = inputs(4, 16)
    with pytest.raises(ValueError, match="16 columns"):
        fused.embed_layer_norm(word, *ids, positions[:, :8], *rest)
    with pytest.raises(ValueError, match="needs a key"):
        fused.embed_layer_norm(word, *ids, positions, *rest, dropout=0.1)
