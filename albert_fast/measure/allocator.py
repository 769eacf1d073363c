"""Measured memory of a step: allocator statistics on CUDA; allocator events and the high-water mark on CPU."""

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from albert_fast.data.batches import Batch
from albert_fast.measure.step_spec import StepSpec
from albert_fast.step import TrainStep

_MARK = "albert_fast_measured_step"


def measure(spec: StepSpec) -> dict[str, Any]:
    """Measure peak bytes and seconds of a step on this machine's device, and the memory seen by the system."""
    device = torch.device(spec.target)
    measure_here = _measure_cuda if device.type == "cuda" else _measure_cpu
    return measure_here(partial(spec.build, device, "auto"), spec.batch())


def _measure_cpu(build: Callable[..., TrainStep], batch: Batch) -> dict[str, Any]:
    """Records every allocation and free of torch's CPU allocator, also inside ops, from model creation on."""
    gc.collect()  # otherwise tensors of an earlier step, freed below, would count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = build()
        _restart_high_water_mark()
        with record_function(_MARK):
            step([batch])
    high_water = _high_water_bytes()
    events = profiler.profiler.kineto_results.events()
    begun = min(event.start_ns() for event in events if event.name() == _MARK)
    moves = sorted((e.start_ns(), i, e.nbytes()) for i, e in enumerate(events) if e.name() == "[memory]")
    live = peak = static = 0
    for when, _, size in moves:
        live += size
        if when < begun:
            static = peak = live
        else:
            peak = max(peak, live)
    return {
        "peak_bytes": peak,
        "static_bytes": static,
        "high_water_mark_bytes": high_water,
        "step_seconds": _step_seconds(step, batch),
        "method": "torch.profiler allocator events; high_water_mark_bytes is VmHWM of the whole process",
    }


def _measure_cuda(build: Callable[..., TrainStep], batch: Batch) -> dict[str, Any]:
    """Statistics of the caching allocator for an eager and a captured step, including the graph pool."""
    _release_cuda()
    before = torch.cuda.memory_allocated()
    step = build()
    step([batch])  # compiles kernels and allocates the cuBLAS workspace
    torch.cuda.synchronize()
    static = torch.cuda.memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()
    step([batch])
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    seconds = _step_seconds(step, batch)
    del step
    _release_cuda()
    free_before = torch.cuda.memory_reserved()
    step = build("on")
    step([batch])
    torch.cuda.synchronize()
    pools = torch.cuda.memory_snapshot()
    return {
        "peak_bytes": peak,
        "static_bytes": static,
        "captured_reserved_bytes": torch.cuda.memory_reserved() - free_before,
        "graph_pool_bytes": sum(s["total_size"] for s in pools if tuple(s.get("segment_pool_id", (0, 0))) != (0, 0)),
        "step_seconds": seconds,
        "captured_step_seconds": _step_seconds(step, batch),
        "method": "max_memory_allocated of an eager step; reserved bytes and private pools of a captured one",
    }


def _release_cuda() -> None:
    """Free memory of earlier steps, which contain reference cycles, and the cuBLAS workspaces."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def _step_seconds(step: TrainStep, batch: Batch, times: int = 3) -> float:
    """Median seconds of a step."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        step([batch])
        if step.key.is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _restart_high_water_mark() -> None:
    """Reset VmHWM to the current resident size (Linux, proc(5): clear_refs)."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def _high_water_bytes() -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
