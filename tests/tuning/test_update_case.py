"""The update of all weights is right as it is, and found wrong where a detail of it is."""

import pytest
import torch

from albert_fast.kernels import candidates, lamb
from albert_fast.kernels.candidates import Problem
from albert_fast.ops import get_ops
from albert_fast.tuning import choose
from albert_fast.tuning.clock import HostClock

CPU = torch.device("cpu")
UPDATE = Problem("lamb", "sm_90", "float32", 16, 64)


BROKEN = {
    "trust": lambda rule: {"trusted": rule["trusted"] - 1},
    "decay": lambda rule: {"decayed": rule["decayed"] + 64},
    "epsilon": lambda rule: {"epsilon": 2e-3},
    None: lambda rule: {},
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here, not interpreted")
@pytest.mark.parametrize("broken", BROKEN)
def test_an_update_that_is_wrong_in_a_detail_is_seen(broken, monkeypatch):
    right = lamb.lamb

    def update(*tensors, **rule):
        right(*tensors, **rule | BROKEN[broken](rule))

    monkeypatch.setattr(lamb, "lamb", update)
    ops = get_ops("triton")
    monkeypatch.setattr(choose, "RAGGED_ROWS", 13)
    monkeypatch.setattr(choose, "ROUNDS", 1)
    (outcome,) = choose.tune([UPDATE], ops, HostClock(), 60.0, CPU)
    default = candidates.candidates_of(UPDATE)[0].name
    if broken is None:
        assert outcome.out == {}
        return
    assert outcome.chosen == choose.PLAIN
    assert "off by" in outcome.out[default]
    choose.apply({choose.key(UPDATE): outcome.chosen}, [UPDATE], ops)
    assert not ops.fuses_update(torch.zeros(1))
