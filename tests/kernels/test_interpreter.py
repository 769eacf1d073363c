"""The interpreter's bf16, corrected, against PyTorch's rounding."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from support.interpreter import bfloat16_to_float32, float32_to_bfloat16

EDGES = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, -1.00390626, 3.4e38, -3.4e38, 1e-40, 1e-45, torch.inf, -torch.inf]


@triton.jit
def _copy_kernel(source_ptr, target_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    value = tl.load(source_ptr + offsets, offsets < n)
    tl.store(target_ptr + offsets, value.to(tl.float32).to(target_ptr.dtype.element_ty), offsets < n)


@triton.jit
def _dot_kernel(a_ptr, b_ptr, out_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(out_ptr + offsets, tl.dot(tl.load(a_ptr + offsets), tl.load(b_ptr + offsets)))


@triton.jit
def _careless_kernel(x_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    value = tl.load(x_ptr + offsets)
    tl.store(x_ptr + offsets, value + value)


def _values() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31 - 1, (4000,), generator=generator, dtype=torch.int64).to(torch.int32)
    return torch.cat([torch.tensor([*EDGES, float("nan")]), bits.view(torch.float32)])


def test_rounding_equals_pytorchs():
    values = _values()
    ours = torch.from_numpy(float32_to_bfloat16(values.numpy()).view(np.int16)).view(torch.bfloat16)
    torch.testing.assert_close(ours, values.bfloat16(), rtol=0, atol=0, equal_nan=True)
    wide = torch.from_numpy(bfloat16_to_float32(values.bfloat16().view(torch.int16).numpy().view(np.uint16)))
    torch.testing.assert_close(wide, values.bfloat16().float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_store_rounds_to_nearest_even(dtype):
    values = _values()
    for source in (values, values.to(dtype)):
        target = torch.empty(values.shape, dtype=dtype)
        _copy_kernel[(1,)](source, target, len(values), BLOCK=4096)
        torch.testing.assert_close(target, source.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_dot_multiplies_numbers_not_bits():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 32, generator=generator).bfloat16() for _ in range(2))
    out = torch.empty(32, 32)
    _dot_kernel[(1,)](a, b, out, BLOCK=32)
    torch.testing.assert_close(out, a.float() @ b.float())


def test_other_arithmetic_on_bfloat16_is_refused():
    with pytest.raises(Exception, match="arithmetic on bf16"):
        _careless_kernel[(1,)](torch.ones(16, dtype=torch.bfloat16), BLOCK=16)
