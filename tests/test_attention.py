"""Attention as an op: what its fake says of CUDA, and queries of some tokens."""

import pytest
import torch
from support.attention_kernels import CU_SEQLENS, LONGEST, attention_inputs, cuda_bodies
from torch._subclasses.fake_tensor import FakeTensorMode

from albert_fast.attention import Queries
from albert_fast.attention_cuda import cuda_attention


@pytest.mark.parametrize("some", [False, True], ids=["all queries", "some queries"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["efficient", "flash"])
def test_the_fake_tells_the_truth_about_cuda(dtype, some, monkeypatch):
    """Shapes, dtypes and strides of what cuda_attention returns, the log-sum-exp of either kernel included."""
    qkv, q, own = attention_inputs(26, dtype, some)
    op = torch.ops.albert_fast.varlen_attention
    with FakeTensorMode():
        fakes = [
            None if x is None else torch.empty(x.shape, dtype=x.dtype, device="cuda") for x in (qkv, q, own, CU_SEQLENS)
        ]
        predicted = op(*fakes, LONGEST)
    with cuda_bodies(monkeypatch):
        real = cuda_attention(qkv, q, own, CU_SEQLENS, LONGEST)
    for fake, tensor in zip(predicted, real, strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (tensor.shape, tensor.dtype, tensor.stride())


def test_queries_are_packed_by_sequence_and_found_again():
    positions = torch.tensor([32, 0, 40, 20, 3])
    queries = Queries.pack(positions, CU_SEQLENS, 40)
    assert queries.tokens.tolist() == [0, 3, 20, 32, 39]  # 40 is no token: the last stands in its place
    assert queries.cu_seqlens.tolist() == [0, 0, 2, 2, 2, 4, 4, 4]  # and belongs to no sequence
    assert queries.tokens[queries.inverse].tolist() == [32, 0, 39, 20, 3]
