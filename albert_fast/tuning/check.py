"""Whether an implementation is right here: its results against those of the plain op in a wider precision.

The rule of the tests (from flash-attention's): an error is at most twice that of the plain op in the same low
precision, both against the fp32 one, plus a little. Three errors are held to it, because each shows what the others
miss: of the whole tensor, of its worst row (one row in thousands that is dropped), and the shrinkage (bits cut off
where they should be rounded leave numbers too small, by no more than rounding errors).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from albert_fast.options import first_line
from albert_fast.tuning.case import Case

REFERENCE_DTYPE = {torch.float32: torch.float64, torch.bfloat16: torch.float32, torch.float16: torch.float32}


def fault(case: Case, implementation: Callable[..., Any], plain: Callable[..., Any], dtype: torch.dtype) -> str | None:
    """What is wrong with `implementation` of the case's op in `dtype`, in one line; None where it is right."""
    truth, low = case.results(plain, REFERENCE_DTYPE[dtype]), case.results(plain, dtype)
    try:
        results = case.results(implementation, dtype)
    except Exception as error:  # a kernel that does not compile raises whatever the compiler does
        return f"{case.op} raises {type(error).__name__}: {first_line(error)}"[:300]
    for name, expected in truth.items():
        if results[name].shape != expected.shape:
            return f"{case.op}, {name}: {list(results[name].shape)} instead of {list(expected.shape)}"
        if not bool(torch.isfinite(results[name]).all()):
            return f"{case.op}, {name}: not finite"
        bounds = _slack(case, dtype, expected.numel())
        ours, theirs = errors(results[name], expected), errors(low[name], expected)
        for kind, own, its, slack in zip(("all", "worst row", "shrinkage"), ours, theirs, bounds, strict=True):
            if not own <= 2 * its + slack:
                return f"{case.op}, {name}: {kind} off by {own:.1e}, where the plain op is by {its:.1e}"
    return None


def deviation(case: Case, implementation: Callable[..., Any], dtype: torch.dtype, bound: float) -> str | None:
    """What of `implementation` in `dtype` is further than `bound`, relative L2, from itself in fp64 on CPU."""
    cpu = torch.device("cpu")
    truth = case.on(cpu).results(implementation, torch.float64)
    for name, actual in case.results(implementation, dtype, drawn_on=cpu).items():
        error = errors(actual.cpu(), truth[name])[0]
        if not error <= bound:
            return f"{name}: off by {error:.1e}, more than {bound:.0e}"
    return None


def errors(actual: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Relative L2 error, that of the worst row (of a vector: element), and how much smaller than the truth it is."""
    actual, truth = actual.to(truth.dtype), truth
    rows = truth.flatten(1) if truth.dim() > 1 else truth.reshape(-1, 1)
    difference = actual.reshape(rows.shape) - rows
    length = max(float(truth.norm()), 1e-30)
    typical = length / max(len(rows), 1) ** 0.5
    shrinkage = abs(float((difference * rows).sum())) / length**2
    return float(difference.norm()) / length, float(difference.norm(dim=1).max()) / typical, shrinkage


def _slack(case: Case, dtype: torch.dtype, size: int) -> tuple[float, float, float]:
    """What is allowed beside twice the plain op's errors, which may be 0."""
    if case.slack is not None:
        return case.slack, 8 * case.slack, case.slack
    epsilon = torch.finfo(dtype).eps
    if dtype == torch.float32:  # sums in another order differ by more than a rounding of the result
        return 8 * epsilon, 64 * epsilon, 8 * epsilon
    return epsilon / 4, 2 * epsilon, epsilon * (0.05 + case.scatter * size**-0.5)
