"""Error bounds of kernels against fp64, and helpers shared by the kernel tests."""

import pytest
import torch
from torch import Tensor

# Kernels are compiled if there is a GPU and interpreted otherwise; one process cannot do both.
DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu) if torch.cuda.is_available() else "cpu"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def slow(*values):
    """A parameter set that only `make test-full` runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


QUICK_DTYPES = [torch.float32, torch.bfloat16, slow(torch.float16)]


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected| in fp64; 0 / 0 counts as 0."""
    actual, expected = actual.double().cpu(), expected.double().cpu()
    distance, length = (actual - expected).norm().item(), expected.norm().item()
    return distance / length if length else distance


def assert_within(name: str, actual: Tensor, expected: Tensor, gate: float) -> None:
    assert actual.shape == expected.shape, f"{name}: {list(actual.shape)} instead of {list(expected.shape)}"
    error = relative_l2(actual, expected)
    assert error <= gate, f"{name}: relative L2 {error:.2e} is above its gate {gate:.1e}"


def assert_no_worse(ours: dict[str, Tensor], plain: dict[str, Tensor], truth: dict[str, Tensor], slack: float) -> None:
    """No element's error against fp64 exceeds twice the plain op's largest, plus `slack` times the largest value."""
    for name, expected in truth.items():
        error, plain_error = ((result[name].double() - expected).abs().max() for result in (ours, plain))
        bound = 2 * plain_error + slack * expected.abs().max()
        assert error <= bound, f"{name}: error {error}, the plain op's is {plain_error}"


def with_main_grad(parameter: Tensor) -> torch.nn.Parameter:
    """A copy of the parameter with a main_grad of ones."""
    copied = torch.nn.Parameter(parameter.clone())
    copied.main_grad = torch.ones(copied.shape)
    return copied


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Standard normal values, equal on every device, rounded to dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).to(device)
