"""Times a call: on CUDA, the replay of its graph with a flushed cache; elsewhere, the call itself."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from albert_fast.capture import capture

FLUSHED_BYTES = 256 << 20  # larger than the L2 of any card


class Clock(Protocol):
    """Times candidates; tests inject one that needs no device."""

    def now(self) -> float:
        """Current time in seconds, for the budget."""
        ...

    def prepare(self, run: Callable[[], Any]) -> Callable[[], float]:
        """Prepare `run`; each call of the result runs it once and returns its seconds."""
        ...


class CudaClock:
    """Times graph replays, as in a captured step, because the host code takes longer than many kernels."""

    def __init__(self, device: torch.device):
        self.device = device
        self.flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)

    def now(self) -> float:
        return time.perf_counter()

    def prepare(self, run: Callable[[], Any]) -> Callable[[], float]:
        (graph,) = capture((run,), self.device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def once(_kept: Callable[[], Any] = run) -> float:  # keeps `run` alive: the graph holds only addresses
            self.flushed.zero_()  # also hides the launch latency of what follows
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1000

        return once


class HostClock:
    """Times calls on the host, for devices without graphs."""

    def now(self) -> float:
        return time.perf_counter()

    def prepare(self, run: Callable[[], Any]) -> Callable[[], float]:
        run()

        def once() -> float:
            begun = time.perf_counter()
            run()
            return time.perf_counter() - begun

        return once


def clock_for(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else HostClock()
