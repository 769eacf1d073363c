"""A signal stops one rank between micro-batches, without a trace of the step that was cut; a second one ends it."""

import os
import signal

import pytest
from support.steps import bits, make_batch, make_step, same

from albert_fast.stop import Stop


def test_a_step_cut_between_micro_batches_leaves_no_trace():
    train = dict(gradient_accumulation_steps=3)
    whole, cut = make_step(train=train), make_step(train=train)
    assert not cut([make_batch(0), make_batch(1)])
    assert same(bits(cut), bits(whole))
    assert cut([make_batch(i) for i in range(3)])
    assert whole([make_batch(i) for i in range(3)])
    assert same(bits(cut), bits(whole))


def test_the_first_signal_asks_and_the_second_ends():
    with Stop(world_size=1) as stop:
        taken = stop.between(iter("abc"))
        assert next(taken) == "a"
        os.kill(os.getpid(), signal.SIGHUP)
        assert list(taken) == []
        assert (stop.received, stop.agreed) == ("SIGHUP", True)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with Stop(world_size=2) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun's echo of the same Ctrl-C
        assert (stop.received, stop.agreed) == ("SIGINT", False)
        stop.agree(1.0)
        assert stop.agreed
