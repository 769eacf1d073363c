"""The ops that have no kernel of ours, on a GPU against fp64 on CPU; skipped where there is none."""

import pytest
import torch

from albert_fast import ops
from albert_fast.attention import Queries
from albert_fast.kernels import candidates, main_grad

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.cpu().double() - expected).norm() / expected.norm())


def results(function, tensors, scale):
    """Output and gradients."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, scale.to(out))]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("head_size", [26, 64])
@pytest.mark.parametrize("some", [False, True], ids=["all queries", "some queries"])
def test_varlen_attention(dtype, head_size, some):
    torch.manual_seed(0)
    tokens, edges = 700, torch.tensor([0, 130, 131, 131, 400, 700, 700], dtype=torch.int32)
    rows = torch.cat((torch.tensor([0, 130, tokens, 400, tokens]), 400 + torch.randperm(300)[:40]))
    qkv = torch.randn(tokens, 3, 4, head_size).to(dtype)

    def attend(qkv):
        cu_seqlens = edges.to(qkv.device)
        if not some:
            return ops.varlen_attention(qkv, cu_seqlens, 300)
        queries = Queries.pack(rows.to(qkv.device), cu_seqlens, tokens)
        q = qkv[queries.tokens, 0]
        return ops.varlen_attention(qkv[:, 1:], cu_seqlens, 300, q, queries.cu_seqlens)[queries.inverse]

    scale = torch.randn(len(rows) if some else tokens, 4, head_size)
    expected = results(attend, [qkv.double()], scale)
    with candidates.asking() as problems:
        attend(qkv.cuda())
    attention = next(problem for problem in problems if problem.op.startswith("attention"))
    for candidate in candidates.candidates_of(attention):  # flash, the memory-efficient kernel, and what is installed
        with candidates.running({attention: candidate}):
            found = results(attend, [qkv.cuda()], scale)
        for actual, wanted in zip(found, expected, strict=True):
            assert relative(actual, wanted) < BOUNDS[dtype], candidate.name


@pytest.mark.parametrize("way", [candidate.name for candidate in main_grad._candidates(None)])
def test_weight_gradient(way):
    torch.manual_seed(0)
    a, b = torch.randn(999, 72).bfloat16(), torch.randn(999, 40).bfloat16()
    total = torch.randn(72, 40)
    expected = total.double() + a.double().t() @ b.double()
    summed = total.cuda()
    (candidate,) = (c for c in main_grad._candidates(None) if c.name == way)
    candidate.options(summed, a.cuda(), b.cuda())
    assert relative(summed, expected) < 1e-5  # operands are rounded, sums are not


@pytest.mark.parametrize("dtype", BOUNDS)
def test_linear_cross_entropy(dtype):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(300, 128).to(dtype), (0.1 * torch.randn(30_000, 128)).to(dtype), torch.zeros(30_000)
    targets, weights = torch.randint(0, 30_000, (300,)), (torch.arange(300) < 280).float()

    def loss(x, weight, bias):
        rest = (tensor.to(x.device) for tensor in (targets, weights))
        return ops.linear_cross_entropy(x, weight, bias, *rest, chunk=128)[0]

    inputs = [x, weight, bias.to(dtype)]
    expected = results(loss, [tensor.double() for tensor in inputs], torch.tensor(1.0))
    for actual, wanted in zip(results(loss, [t.cuda() for t in inputs], torch.tensor(1.0)), expected, strict=True):
        assert relative(actual, wanted) < BOUNDS[dtype]
