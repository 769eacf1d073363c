"""Correctness check of an implementation on this card, against the plain op in higher precision.

The rule is that of the tests (after flash-attention): the error may be at most twice that of the plain op in the same
low precision, both against fp32, plus a small slack. It is applied to three errors that detect different faults: of the
whole tensor; of its worst row (a single dropped row among thousands); and shrinkage (truncation instead of rounding
makes numbers too small by no more than rounding errors).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from albert_fast.options import first_line
from albert_fast.tuning.case import Case

REFERENCE_DTYPE = {torch.float32: torch.float64, torch.bfloat16: torch.float32, torch.float16: torch.float32}


def fault(case: Case, implementation: Callable[..., Any], plain: Callable[..., Any], dtype: torch.dtype) -> str | None:
    """One line that describes what is wrong with `implementation` in `dtype`; None if it is correct."""
    truth, low = case.results(plain, REFERENCE_DTYPE[dtype]), case.results(plain, dtype)
    try:
        results = case.results(implementation, dtype)
    except Exception as error:  # a kernel that fails to compile can raise anything
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
    """The first result of `implementation` in `dtype` that is off from fp64 on CPU by over `bound` (relative L2)."""
    cpu = torch.device("cpu")
    truth = case.on(cpu).results(implementation, torch.float64)
    for name, actual in case.results(implementation, dtype, drawn_on=cpu).items():
        error = errors(actual.cpu(), truth[name])[0]
        if not error <= bound:
            return f"{name}: off by {error:.1e}, more than {bound:.0e}"
    return None


def errors(actual: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Relative L2 error, that of the worst row (vectors: element), and relative shrinkage."""
    actual, truth = actual.to(truth.dtype), truth
    rows = truth.flatten(1) if truth.dim() > 1 else truth.reshape(-1, 1)
    difference = actual.reshape(rows.shape) - rows
    length = max(float(truth.norm()), 1e-30)
    typical = length / max(len(rows), 1) ** 0.5
    shrinkage = abs(float((difference * rows).sum())) / length**2
    return float(difference.norm()) / length, float(difference.norm(dim=1).max()) / typical, shrinkage


def _slack(case: Case, dtype: torch.dtype, size: int) -> tuple[float, float, float]:
    """Slack for the three errors, since those of the plain op may be 0."""
    if case.slack is not None:
        return case.slack, 8 * case.slack, case.slack
    epsilon = torch.finfo(dtype).eps
    if dtype == torch.float32:  # a different summation order changes more than the last rounding
        return 8 * epsilon, 64 * epsilon, 8 * epsilon
    return epsilon / 4, 2 * epsilon, epsilon * (0.05 + case.scatter * size**-0.5)
