"""The feed-forward layer, in all three of its ways, against the plain op in fp64, by its laws, and under opcheck."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gates import DEVICES, DTYPES, QUICK_DTYPES, assert_no_worse, assert_within, random, slow, with_main_grad

from albert_fast import ops
from albert_fast.kernels import gelu, gelu_ffn, tiles
from albert_fast.kernels.candidates import Problem, asking, candidates_of, running

IMPLEMENTATIONS = ["library", "pointer", "tma"]
ACTIVATIONS = ["gelu", "gelu_new", "relu"]
GATES = {  # z, h, grad_z, grad_bias1, and what the library's products make of them
    torch.float32: {"z": 3e-7, "h": 3e-7, "grad_z": 3e-7, "grad_bias1": 4e-7, "product": 1e-6},
    torch.bfloat16: {"z": 2.5e-3, "h": 3.5e-3, "grad_z": 2.5e-3, "grad_bias1": 1e-3, "product": 4e-3},
    torch.float16: {"z": 3e-4, "h": 5e-4, "grad_z": 4e-4, "grad_bias1": 2e-4, "product": 6e-4},
}
SHAPES = [slow((1, 16, 64)), (37, 72, 200), slow((130, 128, 384)), (9, 13, 7)]  # tokens, hidden, feed-forward


def inputs(tokens, hidden, feed_forward, dtype=torch.float32, device="cpu"):
    """x, weight1, bias1, weight2, with z of the spread that training has."""
    x = random(tokens, hidden, seed=0, dtype=dtype, device=device)
    weight1 = random(feed_forward, hidden, seed=1, device=device) / hidden**0.5
    weight2 = random(hidden, feed_forward, seed=3, device=device) / feed_forward**0.5
    return [x, weight1.to(dtype), random(feed_forward, seed=2, dtype=dtype, device=device), weight2.to(dtype)]


def run(op, tensors, **arguments):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = op(*leaves, **arguments)
    out.backward(random(*out.shape, seed=5, dtype=torch.bfloat16).to(out))
    return dict(zip(("out", "grad_x", "grad_weight1", "grad_bias1", "grad_weight2"),
                    [out.detach(), *(leaf.grad for leaf in leaves)], strict=True))  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", QUICK_DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "T{}-H{}-F{}".format(*s))
def test_equals_fp64_within_gates(shape, dtype, implementation, activation, device):
    x, weight1, bias1, weight2 = inputs(*shape, dtype, device)
    grad = random(*x.shape, seed=5, dtype=torch.bfloat16).to(x)
    z, h = gelu_ffn._linear_gelu(x, weight1, bias1, activation, implementation)
    backward = torch.ops.albert_fast.gelu_ffn_backward
    grad_z, h_again, partials = backward(grad, weight2, z, activation, implementation, None)
    assert torch.equal(h_again, h)  # one helper, one z: the h that backward makes again is forward's to the bit

    gates = GATES[dtype]
    wide = [t.double() for t in (x, weight1, bias1, weight2)]
    true_z = wide[0] @ wide[1].t() + wide[2]
    true_h = ops.activate(true_z, activation)
    assert_within("z", z, true_z, gates["z"])
    assert_within("h", h, true_h, gates["h"])
    # Backward starts from the stored z, whose rounding the gate of z has judged.
    stored = z.double().requires_grad_()
    ops.activate(stored, activation).backward(grad.double() @ wide[3])
    assert_within("grad_z", grad_z, stored.grad, gates["grad_z"])
    total = torch.ops.albert_fast.sum_partials(partials)[0]
    # The library's product rounds grad_h on its way to the pass behind it; the epilogue does not.
    gate = gates["product"] if implementation == "library" else gates["grad_bias1"]
    assert_within("grad_bias1", total, stored.grad.sum(0), gate)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", QUICK_DTYPES, ids=str)
def test_every_gradient_equals_fp64(dtype, activation, device):
    tensors = inputs(40, 64, 256, dtype, device)
    truth = run(ops.gelu_ffn, [t.double() for t in tensors], activation=activation)
    for implementation in IMPLEMENTATIONS:
        ours = run(gelu_ffn.gelu_ffn, tensors, activation=activation, implementation=implementation)
        for name, value in ours.items():
            assert value.dtype == dtype
            assert_within(f"{implementation} {name}", value, truth[name], GATES[dtype]["product"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation):
    tensors = [t.double().requires_grad_() for t in inputs(5, 6, 9)]
    op = lambda *a: gelu_ffn.gelu_ffn(*a, activation=activation)  # noqa: E731
    assert torch.autograd.gradcheck(op, tensors, fast_mode=True)


def gelu_backward(grad_h, z, activation):
    """grad_z, h and the partial sums of grad_z's columns."""
    rows = gelu.rows_per_chunk(*z.shape)
    partials = z.new_full((-(-len(z) // rows), 1, z.shape[1]), torch.nan)
    return *gelu.gelu_backward(grad_h, z, activation, partials, False), partials


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gelu_is_right_from_tail_to_tail(activation):
    z = torch.cat([torch.linspace(-12, 12, 20_001), torch.tensor([-1e4, -100.0, -0.0, 0.0, 100.0, 1e4])])
    wide = z.double().requires_grad_()
    truth = ops.activate(wide, activation)
    truth.sum().backward()
    ours = gelu.gelu(z, activation)
    slope = gelu_backward(torch.ones(1, len(z)), z[None], activation)[0][0]
    torch.testing.assert_close(ours.double(), truth.detach(), rtol=2e-6, atol=4e-7)
    torch.testing.assert_close(slope.double(), wide.grad, rtol=2e-6, atol=4e-7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_non_finite_numbers_spread_as_in_pytorch(value, activation):
    z = random(8, 300, seed=0)
    z[2, 5] = z[7, 299] = value
    plain = z.clone().requires_grad_()
    h = ops.activate(plain, activation)
    h.sum().backward()
    ours = gelu.gelu(z, activation)
    grad_z, again, partials = gelu_backward(torch.ones_like(z), z, activation)
    for result, expected in ((ours, h.detach()), (again, h.detach()), (grad_z, plain.grad)):
        # At +inf PyTorch's erf gives NaN on CPU and inf on CUDA: what counts is that neither hides it.
        assert torch.equal(result.isfinite(), expected.isfinite())
    assert torch.equal(partials.sum(0)[0].isfinite(), plain.grad.sum(0).isfinite())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_only_x_and_z_are_kept(implementation):
    x, weight1, bias1, weight2 = (t.requires_grad_() for t in inputs(20, 24, 96, torch.bfloat16))
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        out = gelu_ffn.gelu_ffn(x, weight1, bias1, weight2, implementation=implementation)
    parameters = {weight1.data_ptr(), bias1.data_ptr(), weight2.data_ptr()}
    units = sum(t.numel() for pointer, t in kept.items() if pointer not in parameters) / x.numel()
    assert units == 5.0  # in units of T x H, with F = 4 H; the plain op keeps 9
    assert out.shape == x.shape


@pytest.mark.parametrize("implementation", [slow("library"), slow("pointer"), "tma"])
def test_rerun_gives_the_same_bits_and_permuted_rows_permuted_ones(implementation):
    tensors = inputs(70, 64, 256, torch.bfloat16)
    first, second = (run(gelu_ffn.gelu_ffn, tensors, implementation=implementation) for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    order = torch.randperm(70, generator=torch.Generator().manual_seed(7))
    z, h = gelu_ffn._linear_gelu(*tensors[:3], "gelu", implementation)
    permuted = gelu_ffn._linear_gelu(tensors[0][order], *tensors[1:3], "gelu", implementation)
    assert torch.equal(z[order], permuted[0])
    assert torch.equal(h[order], permuted[1])


@pytest.mark.parametrize("in_fp32", [(0, 1, 2), slow((1,)), (0, 2)], ids=str)
def test_main_grad_accumulates_in_fp32_over_uses(in_fp32):
    x, *parameters = inputs(40, 32, 128, torch.bfloat16)
    single = run(ops.gelu_ffn, [x.double(), *(p.double() for p in parameters)])
    parameters = [with_main_grad(p) if i in in_fp32 else torch.nn.Parameter(p) for i, p in enumerate(parameters)]
    grad = random(40, 32, seed=5, dtype=torch.bfloat16)
    for _ in range(3):
        gelu_ffn.gelu_ffn(x, *parameters).backward(grad)
    for i, name in enumerate(("grad_weight1", "grad_bias1", "grad_weight2")):
        if i in in_fp32:
            assert parameters[i].grad is None
            assert_within(name, parameters[i].main_grad - 1, 3 * single[name], 3e-3)
        else:
            assert_within(name, parameters[i].grad, 3 * single[name], 6e-3)


@pytest.mark.parametrize("implementation", [slow("library"), slow("pointer"), "tma"])
def test_opcheck(implementation):
    tensors = [t.requires_grad_() for t in inputs(9, 16, 64)]
    torch.library.opcheck(torch.ops.albert_fast.gelu_ffn, (*tensors, "gelu", implementation))
    grad, z = random(9, 16, seed=5), random(9, 64, seed=6)
    arguments = (grad, tensors[3].detach(), z, "gelu_new", implementation, None)
    torch.library.opcheck(torch.ops.albert_fast.gelu_ffn_backward, arguments)


def test_the_library_runs_until_another_candidate_is_chosen():
    x = torch.empty(1, 768)
    for target, direction in tiles.TILES:
        for rows_to in (1, 4096, 65536):
            library, *ours = candidates_of(Problem(f"gelu_ffn_{direction}", target, "bfloat16", rows_to, 3072, 768))
            assert library.options is None
            assert ours
            assert all(candidate.reason for candidate in ours)
    for n_rows in (1, 4096, 65536):
        assert tiles.choose("forward", "auto", n_rows, 3072, 768, x) is None
        assert tiles.choose("forward", "library", n_rows, 3072, 768, x) is None
        assert tiles.choose("forward", "tma", n_rows, 3072, 768, x).tma
        assert not tiles.choose("forward", "pointer", n_rows, 3072, 768, x).tma
    assert not tiles.choose("forward", "tma", 8, 3072, 766, x.bfloat16()).tma  # 1532 bytes: no multiple of 16


def test_every_candidate_gives_the_librarys_result():
    tensors = inputs(40, 64, 256, torch.bfloat16)
    with asking() as problems:
        expected = run(gelu_ffn.gelu_ffn, tensors)
    assert {p.op for p in problems} == {"gelu_ffn_forward", "gelu_ffn_backward"}
    for problem in problems:
        for candidate in candidates_of(problem)[1:]:
            with running({problem: candidate}), asking() as asked:
                ours = run(gelu_ffn.gelu_ffn, tensors)
            assert asked == problems
            for name, value in ours.items():
                assert_within(f"{candidate.name} {name}", value, expected[name], 8e-3)


def test_refusals_name_what_disagrees():
    x, weight1, bias1, weight2 = inputs(4, 16, 64)
    with pytest.raises(ValueError, match=r"weight2 \[16, 60\]"):
        gelu_ffn.gelu_ffn(x, weight1, bias1, weight2[:, :60])
    with pytest.raises(ValueError, match="one dtype"):
        gelu_ffn.gelu_ffn(x, weight1.bfloat16(), bias1, weight2)
    with pytest.raises(ValueError, match="'swish'"):
        gelu_ffn.gelu_ffn(x, weight1, bias1, weight2, activation="swish")


def test_no_rows_is_no_work():
    tensors = inputs(0, 16, 64)
    result = run(gelu_ffn.gelu_ffn, tensors)
    assert result["out"].shape == (0, 16)
    assert torch.equal(result["grad_bias1"], torch.zeros(64))


@settings(max_examples=6, deadline=None)
@given(
    tokens=st.integers(1, 140),
    hidden=st.integers(1, 80),
    feed_forward=st.integers(1, 300),
    dtype=st.sampled_from(DTYPES),
    implementation=st.sampled_from(IMPLEMENTATIONS),
    scale=st.sampled_from([1e-2, 1.0, 30.0]),
)
def test_any_shape(tokens, hidden, feed_forward, dtype, implementation, scale):
    x, *parameters = inputs(tokens, hidden, feed_forward, dtype)
    tensors = [x * scale, *parameters]
    ours = run(gelu_ffn.gelu_ffn, tensors, implementation=implementation)
    plain = run(ops.gelu_ffn, tensors)
    truth = run(ops.gelu_ffn, [t.double() for t in tensors])
    assert_no_worse(ours, plain, truth, 2e-6)
