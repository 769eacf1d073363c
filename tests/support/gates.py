"""How close a kernel must come to fp64, and the few lines that every kernel test shares."""

import pytest
import torch
from torch import Tensor

# Kernels are compiled where there is a GPU and interpreted elsewhere, never both in one process.
DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu) if torch.cuda.is_available() else "cpu"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def slow(*values):
    """A parameter that `make test` leaves to `make test-full`."""
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
    """No element further from fp64's than twice the plain op's furthest, and `slack` of the largest number."""
    for name, expected in truth.items():
        error, plain_error = ((result[name].double() - expected).abs().max() for result in (ours, plain))
        bound = 2 * plain_error + slack * expected.abs().max()
        assert error <= bound, f"{name}: {error} against the plain op's {plain_error}"


def with_main_grad(parameter: Tensor) -> torch.nn.Parameter:
    """A parameter of the same numbers whose main_grad is full of ones."""
    made = torch.nn.Parameter(parameter.clone())
    made.main_grad = torch.ones(made.shape)
    return made


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Standard normal numbers, the same ones on every device, rounded to dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).to(device)
