"""How long a call takes: on CUDA the replay of its graph with the cache flushed, elsewhere the call itself."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from albert_fast.capture import capture

FLUSHED_BYTES = 256 << 20  # more than any card's L2


class Clock(Protocol):
    """What times candidates; tests inject one that needs no device."""

    def now(self) -> float:
        """Seconds, for the budget."""
        ...

    def prepare(self, run: Callable[[], Any]) -> Callable[[], float]:
        """Make `run` ready; each call of the result takes it once and returns the seconds of that."""
        ...


class CudaClock:
    """Replays of a graph, as a captured step runs it: our Python takes longer than many a kernel."""

    def __init__(self, device: torch.device):
        self.device = device
        self.flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)

    def now(self) -> float:
        return time.perf_counter()

    def prepare(self, run: Callable[[], Any]) -> Callable[[], float]:
        (graph,) = capture((run,), self.device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def once(_kept: Callable[[], Any] = run) -> float:  # the graph has the addresses of its tensors alone
            self.flushed.zero_()  # it takes longer than the host needs to launch what follows
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1000

        return once


class HostClock:
    """For devices that need no graphs."""

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
