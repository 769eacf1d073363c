"""The gradient of a table of embeddings: sums by id, as CUDA and the CPU make them."""

import pytest
import torch

from albert_fast.kernels.row_sums import ONE_HOT_ROWS, add_row_sums_on_cpu, add_row_sums_on_cuda, table_gradient


@pytest.mark.parametrize("add", [add_row_sums_on_cuda, add_row_sums_on_cpu])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [2, ONE_HOT_ROWS, ONE_HOT_ROWS + 1])
def test_sums_are_those_of_fp64(count, dtype, add):
    """A product for small tables, a sorted sum for others: both run here, on CPU tensors."""
    torch.manual_seed(0)
    ids, grad = torch.randint(0, count, (700,), dtype=torch.int32), torch.randn(700, 24).to(dtype)
    start = torch.randn(count, 24)
    expected, total = start.double().index_add_(0, ids, grad.double()), start.clone()
    add(total, ids, grad)
    torch.testing.assert_close(total.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_table_without_main_grad_gets_its_gradient_in_its_own_dtype():
    ids, grad = torch.tensor([0, 2, 2]), torch.tensor([[1.0], [256.0], [1.0]], dtype=torch.bfloat16)
    table = torch.zeros(3, 1, dtype=torch.bfloat16)
    gradient = table_gradient(None, ids, grad, table)
    assert gradient.dtype == torch.bfloat16
    assert gradient.flatten().tolist() == [1.0, 0.0, 256.0]  # 257, summed in fp32 and rounded once
    main_grad = torch.ones(3, 1)
    assert table_gradient(main_grad, ids, grad, table) is None
    assert main_grad.flatten().tolist() == [2.0, 1.0, 258.0]
