"""One way to time an op: eager torch, torch.compile and ours in one group, checked against each other first.

A bench file gives a Case; `measure` compares output and gradients of every implementation with eager torch, then times
forward, or forward and backward, and notes GB/s, FLOP/s and their shares of what this machine reaches. On a device it
times replays of a CUDA graph with the cache flushed, as a captured step runs the op; what Python and the launches take
stands beside it as the host's time, which is what eager mode waits for where it is longer. On a CPU, whose speed drifts
within seconds, every timed call follows one of eager torch, and the row keeps the quartiles of the pairs' ratios.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from albert_fast.measure import doctor
from albert_fast.ops import Ops, get_ops
from albert_fast.tuning.clock import Clock, clock_for
from bench import machine
from bench.shapes import SHAPES, Shape

KIND = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if KIND == "cuda" else torch.float32
CPU_TOKENS = 1024  # CPU runs are small, and their rows say so: they show that a bench works, not what a kernel is worth
DIRECTIONS = ("forward", "forward+backward")
ROUNDS = 30 if KIND == "cuda" else 7


def shapes() -> list[Shape]:
    """What this machine's benches run at: bench.shapes on a GPU, the two smallest models at few tokens on a CPU."""
    if KIND == "cuda":
        return SHAPES
    small = {s.name: s for s in SHAPES if s.name in ("tiny", "base")}
    return [replace(shape, tokens=CPU_TOKENS) for shape in small.values()]


def shape_id(shape: Shape) -> str:
    return f"{shape.name}-T{shape.tokens}"


def our_ops() -> Ops:
    return get_ops("auto")


@dataclass
class Case:
    """An op at one shape. Functions take the inputs by name and return a tensor; differentiable inputs require grad.

    bytes and flops are the least that forward must move and do; backward_* the same of backward alone.
    """

    op: str
    shape: Shape
    inputs: dict[str, Any]
    implementations: dict[str, Callable[..., Tensor]]
    bytes: int
    backward_bytes: int
    flops: int = 0
    backward_flops: int = 0
    tolerance: float = 0.0  # relative L2; 0: by dtype
    notes: dict[str, Any] = field(default_factory=dict)

    def run(self, implementation: str, direction: str, grad: Tensor | None = None) -> Callable[[], Any]:
        function = self.implementations[implementation]
        if direction == "forward":
            return torch.no_grad()(lambda: function(**self.inputs))
        leaves = self.leaves()

        def both() -> tuple[Tensor, ...]:
            out = function(**self.inputs)
            return torch.autograd.grad(out, leaves, torch.ones_like(out) if grad is None else grad, allow_unused=True)

        return both

    def leaves(self) -> list[Tensor]:
        return [x for x in self.inputs.values() if isinstance(x, Tensor) and x.requires_grad]

    def check(self, implementation: str) -> float:
        """The largest relative L2 distance of output and gradients from eager torch's; raises where it is too large."""
        if implementation == "torch":
            return 0.0
        expected, actual = (self._results(name) for name in ("torch", implementation))
        bound = self.tolerance or (2e-2 if torch.bfloat16 == DTYPE else 1e-4)
        worst = max(
            float((a.float() - e.float()).norm() / e.float().norm().clamp(min=1e-12))
            for a, e in zip(actual, expected, strict=True)
        )
        if not worst <= bound:
            raise AssertionError(f"{self.op} by {implementation} is off by {worst:.1e}, more than {bound:.0e}")
        return worst

    def _results(self, implementation: str) -> list[Tensor]:
        torch.manual_seed(1)
        out = self.implementations[implementation](**self.inputs)
        grads = torch.autograd.grad(out, self.leaves(), torch.randn_like(out))
        return [out.detach(), *grads]


# One function is compiled for many shapes here; past its limit dynamo would time eager torch under another name.
torch._dynamo.config.recompile_limit = 64
torch._dynamo.config.fail_on_recompile_limit_hit = True


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.compile of `function`, compiled anew for each shape as its users would have it."""
    return torch.compile(function, dynamic=False, mode="max-autotune-no-cudagraphs" if KIND == "cuda" else None)


def random(*shape: int, grad: bool = True, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device=KIND) * scale).to(DTYPE).requires_grad_(grad)


def available(*names: str) -> list[str]:
    """The implementations that can run here: peers that need a GPU or are not installed are left out."""
    return [n for n in names if n != "liger" or (KIND == "cuda" and find_spec("liger_kernel"))]


@cache
def rates() -> dict[str, float]:
    """Copy bandwidth in bytes/s and matrix rate in FLOP/s of this machine, measured once a run."""
    if KIND == "cuda":
        return dict(zip(("copy", "matrix"), doctor.rates(torch.device(KIND), DTYPE), strict=True))
    return {"copy": machine.copy_bandwidth(KIND), "matrix": machine.matrix_rate(KIND, DTYPE)}


class Stopwatch:
    """A timer for benches: the host's seconds, or from `replay` on those that replays took on the device."""

    def __init__(self) -> None:
        self.spent: float | None = None

    def __call__(self) -> float:
        return time.perf_counter() if self.spent is None else self.spent

    def replay(self, once: Callable[[], float]) -> Callable[[], None]:
        """`once`, which returns its seconds, as what is to be timed."""
        self.spent = 0.0

        def timed() -> None:
            assert self.spent is not None
            self.spent += once()

        return timed


stopwatch = Stopwatch()
timed_by_stopwatch = pytest.mark.benchmark(timer=stopwatch)  # of every bench that calls `measure`


@cache
def device_clock() -> Clock | None:
    """What times replays on this machine's device; None on CPU, where calls are timed."""
    return clock_for(torch.device(KIND)) if KIND == "cuda" else None


def host_seconds(run: Callable[[], Any]) -> float:
    """Median seconds until a call returns, its kernels still under way."""
    taken = []
    for _ in range(ROUNDS):
        machine.synchronize()
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def rounds_for(run: Callable[[], Any]) -> int:
    """How many calls of `run` to time. On a CPU they fill half a second: few calls of a small op are noise."""
    if KIND == "cuda":
        return ROUNDS
    begun = time.perf_counter()
    run()
    return max(ROUNDS, min(1000, round(0.5 / (time.perf_counter() - begun))))


def measure(benchmark: Any, case: Case, implementation: str, direction: str) -> None:
    """Check, then time `case`; skips what cannot be compiled here, saying why."""
    try:
        error = case.check(implementation)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as problem:
        if implementation != "compile":
            raise
        pytest.skip(f"torch.compile does not work here: {str(problem).splitlines()[0]}")
    run, clock = case.run(implementation, direction), device_clock()
    eager, eager_seconds = case.run("torch", direction), list[float]()

    def time_eager() -> None:
        begun = time.perf_counter()
        eager()
        eager_seconds.append(time.perf_counter() - begun)

    benchmark.group = f"{case.op} {direction} {shape_id(case.shape)}"
    try:
        timed = run if clock is None else stopwatch.replay(clock.prepare(run))
        setup = time_eager if clock is None and implementation != "torch" else None
        benchmark.pedantic(timed, setup=setup, rounds=rounds_for(run), warmup_rounds=3)
    finally:
        stopwatch.spent = None
    with_backward = direction != "forward"
    moved = case.bytes + case.backward_bytes * with_backward
    done = case.flops + case.backward_flops * with_backward
    benchmark.extra_info.update(
        op=case.op, direction=direction, implementation=implementation, preset=case.shape.name,
        tokens=case.shape.tokens, dtype=str(DTYPE).removeprefix("torch."), difference_from_torch=error,
        bytes=moved, flops=done, small_cpu_shape=KIND == "cpu", **case.notes,
    )  # fmt: skip
    if benchmark.stats is None:
        return
    if clock is not None:
        benchmark.extra_info["host_seconds"] = host_seconds(run)
    if setup is not None:
        data = benchmark.stats.stats.data
        ratios = [e / own for e, own in zip(eager_seconds[-len(data) :], data, strict=True)]
        benchmark.extra_info["against_eager"] = statistics.quantiles(ratios, n=4)
    taken = benchmark.stats.stats.median
    benchmark.extra_info["gb_per_second"] = moved / taken / 1e9
    benchmark.extra_info["copy_bandwidth_share"] = moved / taken / rates()["copy"]
    if done:
        benchmark.extra_info["flops_per_second"] = done / taken
        benchmark.extra_info["matrix_rate_share"] = done / taken / rates()["matrix"]
        peak = machine.peak_flops(DTYPE)
        benchmark.extra_info["mfu"] = done / taken / peak if peak else None
