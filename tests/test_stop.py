"""A signal stops one rank between micro-batches, discarding the unfinished step; a second one interrupts it."""

import os
import signal

import pytest
from support.steps import bits, make_batch, make_step, same

from albert_fast.stop import Stop


def test_an_unfinished_step_leaves_no_trace():
    train = dict(gradient_accumulation_steps=3)
    whole, interrupted = make_step(train=train), make_step(train=train)
    assert not interrupted([make_batch(0), make_batch(1)])
    assert same(bits(interrupted), bits(whole))
    assert interrupted([make_batch(i) for i in range(3)])
    assert whole([make_batch(i) for i in range(3)])
    assert same(bits(interrupted), bits(whole))


def test_the_first_signal_stops_and_the_second_interrupts():
    with Stop(world_size=1) as stop:
        batches = stop.between(iter("abc"))
        assert next(batches) == "a"
        os.kill(os.getpid(), signal.SIGHUP)
        assert list(batches) == []
        assert (stop.received, stop.agreed) == ("SIGHUP", True)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with Stop(world_size=2) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun forwards the same Ctrl-C
        assert (stop.received, stop.agreed) == ("SIGINT", False)
        stop.agree(1.0)
        assert stop.agreed
