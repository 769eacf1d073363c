"""Packing gradients of queries, keys and values, against stack and sum."""

import pytest
import torch
from support.gates import DEVICES, DTYPES, assert_within, random

from albert_fast.kernels.pack_gradients import pack_gradients


def parts_of(n_parts, tokens, heads, padded, dtype=torch.float32, device="cpu"):
    return [random(tokens, heads, padded, seed=i, dtype=dtype, device=device) for i in range(n_parts)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("shape", "size"), [((3, 37, 3, 32), 26), ((2, 9, 12, 64), 64), ((1, 5, 1, 8), 3), ((3, 1, 2, 16), 16)], ids=str
)
def test_equals_stack_and_sum(shape, size, dtype, device):
    parts = parts_of(*shape, dtype, device)
    for part in parts:
        part[..., size:] = torch.nan  # flash leaves there what it likes
    packed, partials = pack_gradients(parts, size)
    expected = torch.stack([part[..., :size] for part in parts], dim=1)
    assert torch.equal(packed, expected)
    assert partials.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_within("bias", partials.sum((0, 1)), expected.double().sum(0).flatten(), 1e-6)
    again = pack_gradients(parts, size)[1]
    assert torch.equal(partials, again)


def test_no_tokens_is_no_work():
    packed, partials = pack_gradients(parts_of(3, 0, 2, 8), 8)
    assert packed.shape == (0, 3, 2, 8)
    assert not partials.sum(0).any()


def test_opcheck():
    torch.library.opcheck(torch.ops.albert_fast.pack_gradients, (parts_of(3, 5, 2, 8), 6, None))


def test_refusals_name_what_disagrees():
    with pytest.raises(ValueError, match=r"\[4, 2, 8\]"):
        pack_gradients([*parts_of(1, 5, 2, 8), *parts_of(1, 4, 2, 8)], 8)
