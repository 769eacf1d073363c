"""Index arithmetic beyond 2^31 elements: the last program of every kernel reaches the last element and none past it."""

import pytest
import torch
import triton
import triton.language as tl
from support.reach import reaching

from albert_fast.kernels import KERNELS
from albert_fast.kernels.calls import Sizes, calls, empty

LIMIT = 2**31
HIDDEN, VOCABULARY = 4096, 30000
TOKENS = LIMIT // HIDDEN + 37
SIZES = Sizes(TOKENS, HIDDEN, 4 * HIDDEN, 64, 128, VOCABULARY, predictions=TOKENS)


@pytest.mark.parametrize("module", KERNELS)
def test_offsets_beyond_31_bits_are_exact(module):
    large = set()
    for call in calls(SIZES, torch.bfloat16, empty("meta"), module):
        with reaching() as stubs:
            call.launch()
        for stub in stubs:
            label, size = f"{stub.kernel} {stub.name}", stub.tensor.numel() * stub.tensor.element_size()
            assert stub.last < size, f"{label}: byte {stub.last} of {size}"
            if stub.tensor.numel() > LIMIT and stub.last >= 0:
                assert stub.last == size - stub.tensor.element_size(), f"{label}: the last element is not reached"
                large.add(stub.kernel)
    assert large or module == "partial_sums", "no argument was large"


@triton.jit
def _narrow_kernel(x_ptr, n_rows, N_COLS: tl.constexpr):
    row = n_rows - 1
    tl.store(x_ptr + row * N_COLS + tl.arange(0, N_COLS), 0.0)  # 32 bits


def test_narrow_offsets_are_seen():
    x = torch.empty(LIMIT // HIDDEN + 37, HIDDEN, device="meta")
    with pytest.raises(AssertionError, match="overflowed"), reaching():
        _narrow_kernel[(1,)](x, len(x), N_COLS=HIDDEN)
