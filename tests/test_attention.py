"""The host code around the CUDA attention kernels, on CPU over stand-ins that leave NaN where those write nothing."""

from types import SimpleNamespace

import pytest
import torch
from support.attention_kernels import StandIns
from torch._subclasses.fake_tensor import FakeTensorMode

from albert_fast import attention
from albert_fast.attention import Queries

HEAD_SIZES = (8, 16, 26, 64, 128)
CU_SEQLENS = torch.tensor([0, 0, 7, 20, 20, 33, 40, 40], dtype=torch.int32)  # empty ones first, between and last
TOKENS, LONGEST = 40, 13


@pytest.fixture
def kernels(monkeypatch) -> StandIns:
    """albert_fast.attention over the stand-ins."""
    made = StandIns()
    ops = SimpleNamespace(aten=made, albert_fast=torch.ops.albert_fast)
    names = {name: getattr(torch, name) for name in ("arange", "empty", "float32", "int64", "uint64", "where")}
    monkeypatch.setattr(attention, "torch", SimpleNamespace(**names, ops=ops))
    return made


def inputs(head_size: int, dtype: torch.dtype, some: bool):
    """qkv and q, in no order; one sequence has no query and two queries belong to no sequence."""
    torch.manual_seed(0)
    qkv = torch.randn(TOKENS, 3, 2, head_size).to(dtype)
    if not some:
        return qkv, None, CU_SEQLENS
    queries = Queries.pack(torch.tensor([32, 0, TOKENS, 20, 3, TOKENS, 39]), CU_SEQLENS, TOKENS)
    return qkv[:, 1:], qkv[queries.tokens, 0].contiguous(), queries.cu_seqlens


@pytest.mark.parametrize("some", [False, True], ids=["all queries", "some queries"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["efficient", "flash"])
@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_cuda_attention_is_that_of_the_cpu(head_size, dtype, some, request):
    qkv, q, own = inputs(head_size, dtype, some)
    sequences = own, CU_SEQLENS, LONGEST
    wide = [None if x is None else x.double() for x in (qkv, q)]
    expected, log_sum_exp = attention.cpu_attention(*wide, *sequences)
    grad = torch.randn(expected.shape).to(dtype)
    expected_grads = attention.cpu_attention_backward(grad.double(), *wide, expected, log_sum_exp, *sequences)

    kernels = request.getfixturevalue("kernels")
    out, saved = attention.cuda_attention(qkv, q, *sequences)
    grads = attention.cuda_attention_backward(grad, qkv, q, out, saved, *sequences)
    kind = "efficient" if dtype == torch.float32 else "flash"
    assert kernels.calls == [f"{kind} forward", f"{kind} backward"]
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    *grads, sums = grads
    *expected_grads, expected_sums = expected_grads
    results = zip([out, *grads, sums.sum(0)], [expected, *expected_grads, expected_sums[0]], strict=True)
    for actual, wanted in results:
        assert actual.is_contiguous()
        assert (actual.double() - wanted).norm() <= bound * wanted.norm()


@pytest.mark.parametrize("some", [False, True], ids=["all queries", "some queries"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["efficient", "flash"])
def test_the_fake_tells_the_truth_about_cuda(dtype, some, request):
    """Shapes, dtypes and strides of what cuda_attention returns, the log-sum-exp of either kernel included."""
    qkv, q, own = inputs(26, dtype, some)
    op = torch.ops.albert_fast.varlen_attention
    with FakeTensorMode():
        fakes = [
            None if x is None else torch.empty(x.shape, dtype=x.dtype, device="cuda") for x in (qkv, q, own, CU_SEQLENS)
        ]
        predicted = op(*fakes, LONGEST)
    request.getfixturevalue("kernels")
    real = attention.cuda_attention(qkv, q, own, CU_SEQLENS, LONGEST)
    for fake, tensor in zip(predicted, real, strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (tensor.shape, tensor.dtype, tensor.stride())
