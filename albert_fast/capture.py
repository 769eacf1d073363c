"""Functions captured in CUDA graphs: warmed up, recorded, and where that fails, left as if nobody had tried."""

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
    """A function could not be captured; the message is one line that names the op where it happened, if one did."""


def capture(bodies: Sequence[Callable[[], Any]], device: torch.device) -> list[torch.cuda.CUDAGraph]:
    """One CUDA graph for each of `bodies`, functions of static buffers; all graphs share one memory pool.

    The bodies run three times first, in order, on the stream that then captures: that compiles every kernel, makes
    every workspace and warms NCCL up. What they changed is the caller's to restore.

    Raises:
        CaptureError: what failed. Current stream, caching allocator and generator are then as they were before.
    """
    if device.type != "cuda":
        raise CaptureError(f"not captured: CUDA graphs need a CUDA device, this is {device.type}")
    # The first custom op of a process imports this, and a frame that the import leaves behind pins the frames of the
    # warm-up: autograd nodes of the warm-up, alive while a capture runs, make it fail.
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
        torch.cuda.empty_cache()  # the graphs' pool cannot use what the warm-up left in the allocator
        pool = torch.cuda.graph_pool_handle()
        for body in bodies:
            with last_op:
                graphs.append(_record(body, pool, stream))
        torch.cuda.synchronize()
    except Exception as error:
        for graph in graphs:
            graph.reset()
        # An unfinished capture leaves the generator waiting for its end; a clone of its state waits for nothing.
        generator.graphsafe_set_state(generator_state)  # type: ignore[attr-defined]
        place = f" at {last_op.name}" if last_op.name else ""
        raise CaptureError(f"not captured{place}: {first_line(error)}") from error
    return graphs


def _record(body: Callable[[], Any], pool: Any, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """Capture `body`. Not `torch.cuda.graph`, which leaves its stream current where the end of a capture raises."""
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
    """End a capture that failed, and give its memory back.

    Where CUDA has invalidated the capture, capture_end raises before it tells the allocator (CUDAGraph.cpp of PyTorch
    2.11), which would go on serving from the pool; other versions tell it first, and refuse to be told twice. A graph
    that was captured and could not be instantiated knows its pool and gives it back itself: twice would be an error.
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
    """Remembers the op that ran last, to name the one at which capture failed."""

    name: str = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.name = str(func)
        return func(*args, **(kwargs or {}))
