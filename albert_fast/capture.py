"""CUDA graph capture: warms functions up, records them, and restores the previous state on failure."""

import gc
import importlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from albert_fast.options import first_line

WARM_UP_ROUNDS = 3


class CaptureError(RuntimeError):
    """A function could not be captured; the message is one line and names the failing op if known."""


def capture(bodies: Sequence[Callable[[], Any]], device: torch.device) -> list[torch.cuda.CUDAGraph]:
    """Capture one CUDA graph for each of `bodies`, functions of static buffers; all graphs share one memory pool.

    The bodies first run three times, in order, on the capture stream, which compiles all kernels, creates all
    workspaces and initialises NCCL. The caller restores whatever they modify.

    Raises:
        CaptureError: capture failed; the current stream, the caching allocator and the generator are as before.
    """
    if device.type != "cuda":
        raise CaptureError(f"not captured: CUDA graphs need a CUDA device, this is {device.type}")
    # The first custom op of a process imports torch._dynamo, and a frame left by that import keeps the warm-up's frames
    # alive, including autograd nodes, which make a capture fail. So import it before the warm-up.
    importlib.import_module("torch._dynamo")

    stream, last_op = torch.cuda.Stream(device), _LastOp()
    generator = torch.cuda.default_generators[device.index or 0]
    generator_state, graphs = generator.clone_state(), []  # type: ignore[attr-defined]
    try:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_ROUNDS):
                for body in bodies:
                    body()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()  # the graph pool cannot reuse memory that the warm-up left in the allocator
        pool = torch.cuda.graph_pool_handle()
        for body in bodies:
            with last_op:
                graphs.append(_record(body, pool, stream))
        torch.cuda.synchronize()
    except Exception as error:
        for graph in graphs:
            graph.reset()
        # A failed capture leaves the generator in capture mode; restoring a cloned state leaves that mode.
        generator.graphsafe_set_state(generator_state)  # type: ignore[attr-defined]
        place = f" at {last_op.name}" if last_op.name else ""
        raise CaptureError(f"not captured{place}: {first_line(error)}") from error
    return graphs


def _record(body: Callable[[], Any], pool: Any, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """Capture `body`. torch.cuda.graph is not used: if capture_end raises, its stream stays current."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            body()
            graph.capture_end()
        except BaseException:
            _abandon(graph, pool, stream)
            raise
    return graph


def _abandon(graph: torch.cuda.CUDAGraph, pool: Any, stream: torch.cuda.Stream) -> None:
    """End a failed capture and release its memory pool.

    If CUDA has invalidated the capture, capture_end raises before it notifies the allocator (CUDAGraph.cpp of PyTorch
    2.11), which would then keep allocating from the pool; other versions notify it first and reject a second call. A
    graph that was captured but not instantiated owns its pool and releases it itself; releasing twice is an error.
    """
    with suppress(RuntimeError):
        graph.capture_end()
    try:
        graph.pool()
    except RuntimeError:
        for release in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
            with suppress(RuntimeError):
                release(stream.device_index, pool)
    graph.reset()


class _LastOp(TorchDispatchMode):
    """Records the last dispatched op, to name the one at which capture failed."""

    name: str = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.name = str(func)
        return func(*args, **(kwargs or {}))
