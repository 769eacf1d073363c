"""A case's inputs, and the results that are compared."""

import torch

from albert_fast.kernels.candidates import Problem
from albert_fast.ops import Ops
from albert_fast.tuning.cases import Maker, cases

CPU = torch.device("cpu")
DECODER = Problem("linear_cross_entropy", "sm_90", "float32", 16, 48, 32)


def test_inputs_are_the_same_each_time_and_gradients_are_asked_of_floats_alone():
    first, again = (cases(DECODER, 5, Maker(CPU, torch.float32))[0]
                    for _ in range(2))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(first.arguments, again.arguments, strict=True))
    given, leaves = first.inputs(torch.bfloat16)
    assert [x.dtype for x in leaves] == [torch.bfloat16] * 3  # states, weight and bias; neither ids nor weights of rows
    assert (given[3].dtype, given[4].dtype) == (torch.int32, torch.float32)
    found = first.results(Ops().linear_cross_entropy, torch.float32)
    assert {name.split()[0] for name in found} == {"output", "gradient"}
    assert [found[f"gradient {i}"].shape for i in range(3)] == [x.shape for x in first.arguments[:3]]
