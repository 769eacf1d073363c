"""Inputs of every op that has candidates, and the work that they ask for."""

import torch

from albert_fast.kernels import candidates
from albert_fast.kernels.candidates import Problem
from albert_fast.ops import Ops, get_ops
from albert_fast.tuning.cases import Maker, cases, work

CPU = torch.device("cpu")
FEED_FORWARD = Problem("gelu_ffn_forward", "sm_90", "float32", 16, 48, 32)
LAYER_NORM = Problem("add_layer_norm_backward", "sm_90", "float32", 16, 40)


def test_every_op_that_has_candidates_has_cases():
    get_ops("triton")  # registers the candidates
    assert candidates._CANDIDATES
    for op in candidates._CANDIDATES:
        problem = Problem(op, "sm_90", "float32", 16, 48, 24, 8)
        assert cases(problem, 3, Maker(CPU, torch.float32)), op


def test_inputs_are_the_same_each_time_and_gradients_are_asked_of_floats_alone():
    first, again = (cases(FEED_FORWARD._replace(op="linear_cross_entropy"), 5, Maker(CPU, torch.float32))[0]
                    for _ in range(2))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(first.arguments, again.arguments, strict=True))
    given, leaves = first.inputs(torch.bfloat16)
    assert [x.dtype for x in leaves] == [torch.bfloat16] * 3  # states, weight and bias; neither ids nor weights of rows
    assert (given[3].dtype, given[4].dtype) == (torch.int32, torch.float32)
    found = first.results(Ops().linear_cross_entropy, torch.float32)
    assert {name.split()[0] for name in found} == {"output", "gradient"}
    assert [found[f"gradient {i}"].shape for i in range(3)] == [x.shape for x in first.arguments[:3]]


def test_work_is_the_bytes_that_must_move_or_the_flops():
    assert work(FEED_FORWARD) == (0, 4 * 16 * 48 * 32)
    assert work(FEED_FORWARD._replace(op="gelu_ffn_backward")) == (0, 8 * 16 * 48 * 32)
    assert work(LAYER_NORM) == (3 * 16 * 40 * 4, 0)
    assert work(LAYER_NORM._replace(op="add_layer_norm_forward", dtype="bfloat16")) == (4 * 16 * 40 * 2, 0)
    assert work(LAYER_NORM._replace(op="embed_layer_norm_forward")) == (2 * 16 * 40 * 4, 0)
    assert work(LAYER_NORM._replace(op="pack_gradients")) == (6 * 16 * 40 * 4, 0)
    attention = LAYER_NORM._replace(op="attention", depth=8, length_to=4)
    assert work(attention) == (0, 7 * 2 * 16 * 4 * 40)
    assert work(attention._replace(op="attention_of_some"))[1] == work(attention)[1] // 6
