"""Clocks: a call is made ready once, then each asking takes it once and says how long."""

import time

import torch
from support.cuda_host import DEVICE, cuda_host

from albert_fast.tuning.case import Case
from albert_fast.tuning.clock import CudaClock, HostClock, clock_for


def test_a_prepared_call_is_timed_once_each_time() -> None:
    calls: list[float] = []
    clock = clock_for(torch.device("cpu"))
    assert isinstance(clock, HostClock)
    begun = clock.now()
    once = clock.prepare(lambda: (calls.append(0), time.sleep(0.002)))
    assert len(calls) == 1
    seconds = [once(), once()]
    assert len(calls) == 3
    assert all(taken >= 0.002 for taken in seconds)
    assert clock.now() - begun >= sum(seconds)


def test_on_a_device_a_replay_is_timed_without_the_flush_before_it(monkeypatch) -> None:
    with cuda_host(monkeypatch) as host:
        total = torch.zeros(4)
        clock = clock_for(DEVICE)
        assert isinstance(clock, CudaClock)
        clock.flushed = torch.ones(64)
        once = clock.prepare(lambda: total.add_(1).mul_(1))
        before = total.clone()
        host.written.clear()
        assert [once(), once()] == [1e-3, 1e-3]  # the replay; the flush comes before the first event
        assert host.written >= {host.memory(clock.flushed).name, host.memory(total).name}
        assert host.waits[-2:] == ["event", "event"]
    assert host.faults == []
    assert torch.equal(total, before + 2)


def small_clock() -> CudaClock:
    clock = CudaClock(DEVICE)
    clock.flushed = torch.ones(64)
    return clock


def test_what_a_graph_reads_stays_though_nobody_else_has_the_call(monkeypatch) -> None:
    with cuda_host(monkeypatch):
        total = torch.zeros(4)

        def adding():
            more = torch.ones(4)
            return lambda: total.add_(more)

        once = small_clock().prepare(adding())
        once()


def test_a_backward_pass_is_timed_over_a_forward_pass_of_the_stream_that_captures_it(monkeypatch) -> None:
    """Autograd runs a backward pass on the stream of its forward pass, and a capture has its own stream alone."""
    streams = []
    with cuda_host(monkeypatch) as host:

        def exponential(x: torch.Tensor) -> torch.Tensor:
            streams.append(host.current)
            return x.exp()

        once = small_clock().prepare(Case("", (torch.ones(4),)).backward(exponential, torch.float32))
        once()
        (graph,) = host.graphs
        captured = [str(func) for func, *_ in graph.ops]
        assert "aten.mul.Tensor" in captured
        assert "aten.exp.default" not in captured
    (stream,) = streams
    assert stream is not host.main
