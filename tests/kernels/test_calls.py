"""Every kernel in every way that a run may launch it, small and interpreted: what sanitizers watch on a card."""

from importlib import import_module

import torch
from support.every_call import run

from albert_fast.kernels import KERNELS
from albert_fast.kernels.calls import Sizes, calls, empty, with_every_candidate
from albert_fast.kernels.candidates import Problem, candidates_of, chosen


def test_every_call_of_every_kernel_runs():
    sizes = Sizes(5, 16, 24, heads=2, embedding=8, vocabulary=30, predictions=3)
    names = run("cpu", [sizes])
    for module in KERNELS:
        declared = {call.name for call in calls(sizes, torch.bfloat16, empty("meta"), module)}
        assert declared <= set(names), module


def test_no_op_has_a_default_for_what_it_changes():
    """The dispatcher leaves out trailing arguments at their defaults; torch 2.11 then seeks what changes in vain."""
    import_module("albert_fast.attention")
    for module in KERNELS:
        import_module(f"albert_fast.kernels.{module}")
    ours = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("albert_fast::")]
    changing = [(s.name, a) for s in ours for a in s.arguments if a.alias_info and a.alias_info.is_write]
    assert len(changing) > 10
    assert not [name for name, argument in changing if argument.has_default_value()]


def test_each_other_candidate_runs_once():
    problem, ran = Problem("pack_gradients", "sm_90", "bfloat16", 8, 16), []
    with_every_candidate(lambda: ran.append(chosen(problem).name))
    assert ran == [candidate.name for candidate in candidates_of(problem)]
