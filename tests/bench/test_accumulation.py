"""Gradients of shared weights are accumulated in fp32; autograd accumulates them in bf16."""

import pytest

from bench.accumulation import errors


@pytest.mark.parametrize("uses", [1, 12, 24])
def test_shared_gradients_keep_fp32_precision(uses):
    found = errors(uses, tokens=2048, width=48)
    assert found["fp32_main_grad"] <= 1e-6
    assert found["autograd_bf16"] > 100 * found["fp32_main_grad"]
