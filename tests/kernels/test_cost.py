"""What each op states to move is what the interpreter counts, for every call that the kernels declare."""

import pytest
import torch
from support.gates import slow
from support.traffic import assert_clean

from albert_fast.kernels import KERNELS
from albert_fast.kernels.calls import Sizes, calls, empty
from albert_fast.kernels.cost import cost_of
from bench.counting import counting

# Ragged: no size is a multiple of a tile's.
SIZES = Sizes(tokens=37, hidden=72, intermediate=200, heads=3, embedding=40, vocabulary=531, predictions=11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, slow(torch.float32)], ids=str)
@pytest.mark.parametrize("module", KERNELS)
def test_every_call_moves_what_it_states(module, dtype):
    ops = set()
    for call in calls(SIZES, dtype, empty("cpu"), module):
        with counting() as counted, torch.no_grad():
            call()
        assert_clean(counted)
        stated = call.costs()
        ours = [cost for cost in stated if cost.name != "library"]
        assert {a.kernel for a in counted.arguments} == {cost.name for cost in ours}, call.name
        moved = counted.total("read_bytes") + counted.total("written_bytes")
        assert moved == sum(cost.bytes for cost in ours), f"{call.name}: moved, and stated"
        assert all(cost.floor_bytes <= cost.bytes for cost in stated)
        ops.add(call.name)
    assert ops


def test_an_op_without_a_statement_has_none():
    assert cost_of("aten::add", 1, 2) is None
