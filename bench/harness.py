"""Timing of ops: eager torch, torch.compile and ours in one group, each checked against eager torch first.

A benchmark file defines a Case. `measure` compares the output and gradients of an implementation with eager torch's,
times forward or forward + backward, and records GB/s, FLOP/s and their shares of this machine's rates. On a GPU it
times replays of a CUDA graph with a flushed L2 cache, as a captured step runs the op; the host time of Python and the
launches is recorded separately and dominates eager mode where it is longer. On a CPU, whose clock drifts within
seconds, each timed call follows a call of eager torch, and the row stores the quartiles of the ratios of these pairs.
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
CPU_TOKENS = 1024  # CPU runs are small and marked as such: they show that a benchmark works, not how fast a kernel is
DIRECTIONS = ("forward", "forward+backward")
ROUNDS = 30 if KIND == "cuda" else 7


def shapes() -> list[Shape]:
    """Shapes to run on this machine: bench.shapes on a GPU, the two smallest models at CPU_TOKENS on a CPU."""
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

    bytes and flops are the minimum for forward, backward_bytes and backward_flops for backward alone.
    """

    op: str
    shape: Shape
    inputs: dict[str, Any]
    implementations: dict[str, Callable[..., Tensor]]
    bytes: int
    backward_bytes: int
    flops: int = 0
    backward_flops: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    def run(self, implementation: str, direction: str) -> Callable[[], Any]:
        function = self.implementations[implementation]
        if direction == "forward":
            return torch.no_grad()(lambda: function(**self.inputs))
        leaves = self.leaves()

        def both() -> tuple[Tensor, ...]:
            out = function(**self.inputs)
            return torch.autograd.grad(out, leaves, torch.ones_like(out), allow_unused=True)

        return both

    def leaves(self) -> list[Tensor]:
        return [x for x in self.inputs.values() if isinstance(x, Tensor) and x.requires_grad]

    def check(self, implementation: str) -> float:
        """Largest relative L2 error of output and gradients against eager torch; AssertionError beyond the bound."""
        if implementation == "torch":
            return 0.0
        expected, actual = (self._results(name) for name in ("torch", implementation))
        bound = 2e-2 if torch.bfloat16 == DTYPE else 1e-4
        worst = max(
            float((a.float() - e.float()).norm() / e.float().norm().clamp(min=1e-12))
            for a, e in zip(actual, expected, strict=True)
        )
        if not worst <= bound:
            raise AssertionError(f"{self.op}: {implementation} is off by {worst:.1e}, more than {bound:.0e}")
        return worst

    def _results(self, implementation: str) -> list[Tensor]:
        torch.manual_seed(1)
        out = self.implementations[implementation](**self.inputs)
        grads = torch.autograd.grad(out, self.leaves(), torch.randn_like(out))
        return [out.detach(), *grads]


# One function is compiled for many shapes. Beyond the limit dynamo would silently fall back to eager torch.
torch._dynamo.config.recompile_limit = 64
torch._dynamo.config.fail_on_recompile_limit_hit = True


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` under torch.compile, with static shapes."""
    return torch.compile(function, dynamic=False, mode="max-autotune-no-cudagraphs" if KIND == "cuda" else None)


def random(*shape: int, grad: bool = True, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device=KIND) * scale).to(DTYPE).requires_grad_(grad)


def available(*names: str) -> list[str]:
    """The implementations that can run here: Liger needs a GPU and its package."""
    return [n for n in names if n != "liger" or (KIND == "cuda" and find_spec("liger_kernel"))]


@cache
def rates() -> dict[str, float]:
    """Copy bandwidth in bytes/s and matrix-multiply rate in FLOP/s of this machine, measured once per run."""
    if KIND == "cuda":
        return dict(zip(("copy", "matrix"), doctor.rates(torch.device(KIND), DTYPE), strict=True))
    return {"copy": machine.copy_bandwidth(KIND), "matrix": machine.matrix_rate(KIND, DTYPE)}


class Stopwatch:
    """A timer for pytest-benchmark: host seconds or, after `replay`, device seconds of the replays."""

    def __init__(self) -> None:
        self.spent: float | None = None

    def __call__(self) -> float:
        return time.perf_counter() if self.spent is None else self.spent

    def replay(self, once: Callable[[], float]) -> Callable[[], None]:
        """The function to time, given `once`, which replays the op and returns its device seconds."""
        self.spent = 0.0

        def timed() -> None:
            assert self.spent is not None
            self.spent += once()

        return timed


stopwatch = Stopwatch()
timed_by_stopwatch = pytest.mark.benchmark(timer=stopwatch)  # for every test that calls `measure`


@cache
def device_clock() -> Clock | None:
    """The clock that times replays on the GPU; None on CPU, where calls are timed."""
    return clock_for(torch.device(KIND)) if KIND == "cuda" else None


def host_seconds(run: Callable[[], Any]) -> float:
    """Median seconds until a call returns, without waiting for its kernels."""
    taken = []
    for _ in range(ROUNDS):
        machine.synchronize()
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def rounds_for(run: Callable[[], Any]) -> int:
    """Number of calls to time. On a CPU they fill half a second, since a few calls of a small op are too noisy."""
    if KIND == "cuda":
        return ROUNDS
    started = time.perf_counter()
    run()
    return max(ROUNDS, min(1000, round(0.5 / (time.perf_counter() - started))))


def measure(benchmark: Any, case: Case, implementation: str, direction: str) -> None:
    """Check and time `case`; skips with the reason if torch.compile does not work here."""
    try:
        error = case.check(implementation)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as problem:
        if implementation != "compile":
            raise
        pytest.skip(f"torch.compile does not work here: {str(problem).splitlines()[0]}")
    run, clock = case.run(implementation, direction), device_clock()
    eager, eager_seconds = case.run("torch", direction), list[float]()

    def time_eager() -> None:
        started = time.perf_counter()
        eager()
        eager_seconds.append(time.perf_counter() - started)

    benchmark.group = f"{case.op} {direction} {shape_id(case.shape)}"
    try:
        timed = run if clock is None else stopwatch.replay(clock.prepare(run))
        setup = time_eager if clock is None and implementation != "torch" else None
        benchmark.pedantic(timed, setup=setup, rounds=rounds_for(run), warmup_rounds=3)
    finally:
        stopwatch.spent = None
    with_backward = direction != "forward"
    record(
        benchmark, op=case.op, direction=direction, implementation=implementation, preset=case.shape.name,
        tokens=case.shape.tokens, moved=case.bytes + case.backward_bytes * with_backward,
        done=case.flops + case.backward_flops * with_backward, difference_from_torch=error, **case.notes,
    )  # fmt: skip
    if benchmark.stats is None:
        return
    if clock is not None:
        benchmark.extra_info["host_seconds"] = host_seconds(run)
    if setup is not None:
        data = benchmark.stats.stats.data
        ratios = [e / own for e, own in zip(eager_seconds[-len(data) :], data, strict=True)]
        benchmark.extra_info["against_eager"] = statistics.quantiles(ratios, n=4)


def record(benchmark: Any, *, moved: int, done: int = 0, dtype: torch.dtype = DTYPE, **described: Any) -> None:
    """Store what was timed in the row and, once it is timed, the rates for `moved` bytes and `done` FLOPs (0: none)."""
    info = benchmark.extra_info
    info |= described | {"bytes": moved, "flops": done, "small_cpu_shape": KIND == "cpu"}
    info["dtype"] = str(dtype).removeprefix("torch.")
    if benchmark.stats is None:
        return
    taken, peak = benchmark.stats.stats.median, machine.peak_flops(dtype)
    if moved:
        info |= {"gb_per_second": moved / taken / 1e9, "copy_bandwidth_share": moved / taken / rates()["copy"]}
    if done:
        info |= {"flops_per_second": done / taken, "matrix_rate_share": done / taken / rates()["matrix"]}
        info["mfu"] = done / taken / peak if peak else None
