"""The clock of devices without graphs: a call is warmed once, then each asking takes it once and says how long."""

import time

import torch

from albert_fast.tuning.clock import HostClock, clock_for


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
