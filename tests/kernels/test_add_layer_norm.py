"""The fused LayerNorm joins against the plain op in fp64, by its laws, and under PyTorch's own checks of an op."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gates import DEVICES, DTYPES, QUICK_DTYPES, assert_no_worse, assert_within, random, slow, with_main_grad

from albert_fast import ops
from albert_fast.kernels import add_layer_norm as fused
from albert_fast.kernels.candidates import Problem, candidates_of
from albert_fast.kernels.rows import rows_per_chunk

NAMES = ["y", "s", "grad_x", "grad_bias", "grad_residual", "grad_weight", "grad_layer_norm_bias"]
GATES = {
    torch.float32: dict.fromkeys(NAMES, 3e-7),
    torch.bfloat16: {"y": 3e-3, "s": 2e-3, "grad_x": 2.5e-3, "grad_residual": 2.5e-3, "grad_weight": 3e-3},
    torch.float16: {"y": 4e-4, "s": 2.5e-4, "grad_x": 4e-4, "grad_residual": 4e-4, "grad_weight": 4e-4},
}
for dtype, bound in ((torch.bfloat16, 2.5e-3), (torch.float16, 4e-4)):  # rounded once at the end
    GATES[dtype] |= {"grad_bias": bound, "grad_layer_norm_bias": bound}
SHAPES = [slow((1, 128)), (11, 312), (3, 768), slow((3, 1023)), slow((2, 2048)), (1, 4096)]


def inputs(tokens, hidden, dtype=torch.float32, device="cpu"):
    """x, bias, residual, weight, layer_norm_bias: rows off centre, as residual streams are."""
    x, residual = (random(tokens, hidden, seed=s, dtype=dtype, device=device) for s in (0, 1))
    bias, weight, layer_norm_bias = (random(hidden, seed=s, dtype=dtype, device=device) for s in (2, 3, 4))
    return [x, bias, residual + 0.5, weight + 1.0, layer_norm_bias]


def key_of(seed=1234, micro_batch=0, device="cpu"):
    return torch.tensor([seed, micro_batch], device=device)


def run(implementation, tensors, dropout=0.0, key=None, site=3, pre=True, epsilon=1e-12):
    """Outputs and gradients by name; gradients of outputs are fixed numbers."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    arguments = {"epsilon": epsilon, "dropout": dropout, "key": key, "site": site}
    if pre:
        outputs = implementation.add_pre_layer_norm(*leaves, **arguments)
    else:
        outputs = (implementation.add_layer_norm(*leaves, **arguments),)
    grads = [random(*leaves[0].shape, seed=n, dtype=torch.bfloat16).to(leaves[0]) for n in (5, 6)]
    torch.autograd.backward(outputs, grads[: len(outputs)])
    names = NAMES if pre else ["y", *NAMES[2:]]
    return dict(zip(names, [*(o.detach() for o in outputs), *(leaf.grad for leaf in leaves)], strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("pre", "dropout"), [(True, 0.1), (False, 0.0), slow(True, 0.0), slow(False, 0.1)], ids=str)
@pytest.mark.parametrize("dtype", QUICK_DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"T{s[0]}-H{s[1]}")
def test_equals_fp64_within_gates(shape, dtype, pre, dropout, device):
    tensors = inputs(*shape, dtype, device)
    key = key_of(device=device)
    ours = run(fused, tensors, dropout, key, pre=pre)
    truth = run(ops, [t.double() for t in tensors], dropout, key, pre=pre)
    for name in ours:
        assert ours[name].dtype == dtype
        assert_within(name, ours[name], truth[name], GATES[dtype][name])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("hidden", [312, slow(768)])
def test_fp32_parameters_keep_fp32_gradients_of_bf16_rows(hidden, device):
    x, bias, residual, *rest = inputs(17, hidden, device=device)
    tensors = [x.bfloat16(), bias, residual.bfloat16(), *rest]
    ours = run(fused, tensors, 0.1, key_of(device=device))
    truth = run(ops, [t.double() for t in tensors], 0.1, key_of(device=device))
    assert_within("grad_bias", ours["grad_bias"], truth["grad_bias"], 3e-4)
    assert_within("grad_layer_norm_bias", ours["grad_layer_norm_bias"], truth["grad_layer_norm_bias"], 3e-7)
    assert_within("grad_weight", ours["grad_weight"], truth["grad_weight"], 3e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=lambda p: f"dropout{p}")  # 1 / (1 - 0.5) is exact
@pytest.mark.parametrize("name", ["add_layer_norm", "add_pre_layer_norm"])
def test_gradcheck(name, dropout):
    tensors = [t.requires_grad_() for t in inputs(9, 5, torch.float64)]  # two chunks of rows
    op = getattr(fused, name)
    assert torch.autograd.gradcheck(
        lambda *a: op(*a, epsilon=1e-5, dropout=dropout, key=key_of()), tensors, fast_mode=True
    )


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=lambda p: f"dropout{p}")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_non_finite_numbers_spread_as_in_pytorch(value, dropout):
    tensors = inputs(4, 40)
    tensors[0][1, 7], tensors[2][3, 39] = value, value
    ours, plain = (run(i, tensors, dropout, key_of()) for i in (fused, ops))
    for name in NAMES:
        assert torch.equal(ours[name].isfinite(), plain[name].isfinite()), name
        assert torch.equal(ours[name].isnan(), plain[name].isnan()), name
    assert ours["y"][1].isnan().all()
    assert ours["y"][[0, 2]].isfinite().all()


def test_no_dropout_is_dropout_of_probability_zero():
    tensors = inputs(6, 100)
    with_key, without = run(fused, tensors, 0.0, key_of()), run(fused, tensors)
    tiny = run(fused, tensors, 1e-9, key_of())  # rounds to no dropped value, through the path that draws
    for name in NAMES:
        torch.testing.assert_close(with_key[name], without[name], rtol=0, atol=0)
        torch.testing.assert_close(tiny[name], without[name])


def mask(tokens=16, hidden=800, dropout=0.25, **arguments):
    """What survives, seen from outside: s is 1 / (1 - p) where kept."""
    site = arguments.pop("site", 0)
    zeros, ones = torch.zeros(tokens, hidden), torch.ones(tokens, hidden)
    vectors = [torch.zeros(hidden), torch.ones(hidden), torch.zeros(hidden)]
    s = fused.add_pre_layer_norm(ones, vectors[0], zeros, *vectors[1:], 1e-5, dropout, key_of(**arguments), site)[1]
    assert set(s.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - dropout)).item()}
    return s > 0


@pytest.mark.parametrize("hidden", [7, 312])
@pytest.mark.parametrize("seed", [0, 2**62 + 12345, slow(1234), slow(-1)])
def test_mask_is_the_plain_ops_bit_for_bit(hidden, seed):
    for micro_batch, site in ((0, 0), (2**31 + 5, 1), (7, 23)):
        ours = mask(9, hidden, seed=seed, micro_batch=micro_batch, site=site)
        assert torch.equal(ours, ops.dropout_keep(key_of(seed, micro_batch), site, 9, hidden, 0.25))


def test_masks_of_other_keys_are_uncorrelated_and_of_the_right_rate():
    masks = [mask(), mask(seed=1235), mask(micro_batch=1), mask(site=1), mask(seed=1234 + 2**32), mask(site=2**16)]
    rows = [masks[0].roll(1, 0), masks[0].roll(1, 1), masks[0].roll(8, 1)]
    centred = torch.stack([m.flatten().double() for m in masks + rows])
    assert torch.allclose(centred.mean(1), torch.tensor(0.75).double(), atol=4 * (0.1875 / 12800) ** 0.5)
    correlation = torch.corrcoef(centred) - torch.eye(len(centred))
    assert correlation.abs().max() < 5 / 12800**0.5


def test_backward_makes_the_mask_of_forward_again():
    tensors = inputs(40, 96)
    result = run(fused, tensors, 0.4, key_of(), pre=False)
    dropped = ~ops.dropout_keep(key_of(), 3, 40, 96, 0.4)
    assert torch.equal(result["grad_x"] == 0, dropped)
    torch.testing.assert_close(result["grad_x"][~dropped], result["grad_residual"][~dropped] / 0.6)
    torch.testing.assert_close(result["grad_bias"], result["grad_x"].sum(0))


@pytest.mark.parametrize("dropout", [slow(0.0), 0.1], ids=lambda p: f"dropout{p}")
def test_rerun_gives_the_same_bits(dropout):
    tensors = inputs(9, 312, torch.bfloat16)
    first, second = (run(fused, tensors, dropout, key_of()) for _ in range(2))
    for name in NAMES:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("tokens", [20, slow(2100)], ids=str)  # above 2048 forward takes more rows a program
def test_permuted_rows_give_permuted_bits(tokens):
    x, bias, residual, weight, layer_norm_bias = inputs(tokens, 24, torch.bfloat16)
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(7))
    grad_y, grad_s = (random(tokens, 24, seed=s, dtype=torch.bfloat16) for s in (5, 6))
    results = []
    for rows in (torch.arange(tokens), order):
        leaves = [x[rows].requires_grad_(), residual[rows].requires_grad_()]
        outputs = fused.add_pre_layer_norm(leaves[0], bias, leaves[1], weight, layer_norm_bias)
        torch.autograd.backward(outputs, [grad_y[rows], grad_s[rows]])
        results.append([*outputs, *(leaf.grad for leaf in leaves)])
    for plain, permuted in zip(*results, strict=True):
        assert torch.equal(plain[order], permuted)


def test_one_row_does_not_depend_on_its_company():
    x, bias, residual, *rest = inputs(30, 312, torch.bfloat16)
    alone = fused.add_layer_norm(x[17:18], bias, residual[17:18], *rest)
    assert torch.equal(alone[0], fused.add_layer_norm(x, bias, residual, *rest)[17])


@pytest.mark.parametrize("in_fp32", [(0, 1, 2), slow((0,)), (1, 2)], ids=str)
def test_main_grad_accumulates_in_fp32_over_uses(in_fp32):
    x, bias, residual, weight, layer_norm_bias = inputs(20, 96, torch.bfloat16)
    single = run(fused, [x, bias.float(), residual, weight.float(), layer_norm_bias.float()], pre=False)
    parameters = [
        with_main_grad(p) if i in in_fp32 else torch.nn.Parameter(p)
        for i, p in enumerate((bias, weight, layer_norm_bias))
    ]
    grad_y = random(20, 96, seed=5, dtype=torch.bfloat16)
    for _ in range(3):
        fused.add_layer_norm(x, parameters[0], residual, parameters[1], parameters[2]).backward(grad_y)
    for i, name in enumerate(("grad_bias", "grad_weight", "grad_layer_norm_bias")):
        if i in in_fp32:
            assert parameters[i].grad is None
            torch.testing.assert_close(parameters[i].main_grad, 1 + 3 * single[name], rtol=1e-5, atol=1e-5)
        else:
            torch.testing.assert_close(parameters[i].grad.float(), 3 * single[name], rtol=2e-2, atol=2e-1)


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=lambda p: f"dropout{p}")  # 1 / (1 - 0.5) is exact
@pytest.mark.parametrize("used", ["both", "branch", "residual"])
def test_post_layer_norm_takes_the_gradients_of_its_two_results_apart(used, dropout):
    tensors = inputs(9, 40, torch.float64)
    grads = [random(9, 40, seed=s, dtype=torch.float64) for s in (5, 6)]
    pick = {"both": [0, 1], "branch": [0], "residual": [1]}[used]
    results = []
    for implementation in (fused, ops):
        leaves = [t.clone().requires_grad_() for t in tensors]
        two = implementation.add_post_layer_norm(*leaves, epsilon=1e-5, dropout=dropout, key=key_of(), site=3)
        assert torch.equal(*two)
        torch.autograd.backward([two[i] for i in pick], [grads[i] for i in pick])
        results.append([two[0].detach(), *(leaf.grad for leaf in leaves)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def test_gradients_flow_without_a_bias_of_interest():
    x, bias, residual, weight, layer_norm_bias = inputs(5, 16)
    x.requires_grad_()
    fused.add_pre_layer_norm(x, bias, residual, weight, layer_norm_bias)[1].sum().backward()  # y is not used
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("dropout", [slow(0.0), 0.1], ids=lambda p: f"dropout{p}")
def test_opcheck(dropout):
    tensors = [t.requires_grad_() for t in inputs(9, 40)]
    key = key_of() if dropout else None
    torch.library.opcheck(torch.ops.albert_fast.add_layer_norm, (*tensors, key, 1e-5, dropout, 1))
    with torch.no_grad():
        y, s, mean, rstd = torch.ops.albert_fast.add_layer_norm(*tensors, key, 1e-5, dropout, 1)
    for grad_s in (None, y):
        arguments = (y, grad_s, s, mean, rstd, tensors[3].detach(), key, dropout, 1, "sum", None)
        torch.library.opcheck(torch.ops.albert_fast.add_layer_norm_backward, arguments)


def test_opcheck_of_the_sums():
    partials = random(5, 3, 40, seed=0)
    torch.library.opcheck(torch.ops.albert_fast.sum_partials, (partials,))
    torch.library.opcheck(torch.ops.albert_fast.accumulate_partials, (partials, [torch.ones(40) for _ in range(3)]))


def test_number_of_partials_depends_on_the_shape_alone_and_fits_l2():
    for hidden in (128, 312, 768, 1024, 2048, 4096):
        for tokens in (1, 7, 1000, 16384, 65536, 100_003):
            problem = Problem("add_layer_norm_backward", "sm_90", "bfloat16", 65536, hidden)
            for candidate in candidates_of(problem):
                rows = rows_per_chunk(tokens, hidden, candidate.options["BLOCK_ROWS"])
                chunks = -(-tokens // rows)
                assert (chunks - 1) * rows < tokens <= chunks * rows
                assert chunks * 3 * hidden * 4 <= 8 << 20


def test_refusals_name_what_disagrees():
    x, bias, residual, weight, layer_norm_bias = inputs(4, 16)
    with pytest.raises(ValueError, match=r"\[4, 16\].*\[3, 16\]"):
        fused.add_layer_norm(x, bias, residual[:3], weight, layer_norm_bias)
    with pytest.raises(ValueError, match=r"weight \[8\]"):
        fused.add_layer_norm(x, bias, residual, weight[:8], layer_norm_bias)
    with pytest.raises(ValueError, match="needs a key"):
        fused.add_layer_norm(x, bias, residual, weight, layer_norm_bias, dropout=0.1)
    with pytest.raises(ValueError, match="dropout=1"):
        fused.add_layer_norm(x, bias, residual, weight, layer_norm_bias, dropout=1.0, key=key_of())


def test_no_rows_is_no_work():
    x, bias, residual, weight, layer_norm_bias = (t.requires_grad_() for t in inputs(0, 16))
    y = fused.add_layer_norm(x, bias, residual, weight, layer_norm_bias)
    y.sum().backward()
    assert y.shape == (0, 16)
    assert torch.equal(weight.grad, torch.zeros(16))


@settings(max_examples=6, deadline=None)
@given(
    tokens=st.integers(1, 20),
    hidden=st.integers(2, 700),
    dtype=st.sampled_from(DTYPES),
    dropout=st.sampled_from([0.0, 0.1, 0.9]),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_any_shape(tokens, hidden, dtype, dropout, scale):
    tensors = [(t * scale).to(dtype) for t in inputs(tokens, hidden)]
    key = key_of()
    ours, plain = (run(i, tensors, dropout, key, epsilon=1e-5) for i in (fused, ops))
    truth = run(ops, [t.double() for t in tensors], dropout, key, epsilon=1e-5)
    assert_no_worse(ours, plain, truth, 1e-6)
