"""Choosing among a library's ways: attention's kernels, products of weight gradients, and the pass that packs.

Their bodies for CUDA run on CPU, over stand-ins where the library has no such kernel there.
"""

import itertools

import pytest
import torch
from support.attention_kernels import StandIns, cuda_bodies
from support.clocks import Table
from support.steps import make_step

from albert_fast.kernels import candidates, main_grad
from albert_fast.kernels.candidates import Problem, candidates_of
from albert_fast.ops import Ops, plain_attention
from albert_fast.tuning import choose
from albert_fast.tuning import run as tuning
from albert_fast.tuning.choose import PLAIN, apply, key, tune

CPU = torch.device("cpu")
ATTENTION = Problem("attention", "sm_90", "bfloat16", 64, 16, 8, 32)
OF_SOME = ATTENTION._replace(op="attention_of_some")
GRADIENT = Problem("weight_gradient", "sm_90", "bfloat16", 64, 24, 40)
PACKING = Problem("pack_gradients", "sm_90", "bfloat16", 64, 20)
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="over stand-ins for a card's kernels")


def addmm(total, a, b, *, out_dtype=None, out=None):
    """CUDA's, which widens: torch.addmm of CPU refuses."""
    return out.copy_(total + a.to(out_dtype) @ b.to(out_dtype))


def mm(a, b, *, out_dtype=None):
    return a.to(out_dtype) @ b.to(out_dtype)


def rounding_addmm(total, a, b, *, out_dtype=None, out=None):
    """One that rounds the product before it adds."""
    return out.copy_(total + (a @ b).to(out_dtype))


class LastQueryLost(StandIns):
    """Flash attention that leaves each sequence's last query out where it has more than 16."""

    def _flash_attention_forward(self, *arguments, **keywords):
        out, *rest = super()._flash_attention_forward(*arguments, **keywords)
        for start, end in itertools.pairwise(arguments[3].tolist()):
            out[end - 1 : end] *= end - start <= 16
        return out, *rest


@pytest.fixture(autouse=True)
def _as_on_cuda(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch, "addmm", addmm)
    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(choose, "ROUNDS", 1)
    with candidates.running({}), cuda_bodies(monkeypatch):
        yield


def choose_for(problem: Problem, **seconds: float):
    (outcome,) = tune([problem], Ops(), Table([problem], seconds), 60.0, CPU)
    return outcome


@pytest.mark.parametrize("problem", [ATTENTION, OF_SOME], ids=lambda problem: problem.op)
@pytest.mark.parametrize("fastest", ["flash", "efficient"])
def test_attention_takes_the_faster_kernel(problem, fastest):
    outcome = choose_for(problem, **{fastest: 0.5})
    assert (outcome.out, outcome.chosen) == ({}, fastest)
    assert outcome.seconds[fastest] == 0.5


def test_a_flash_that_loses_queries_of_long_sequences_is_out(monkeypatch):
    with cuda_bodies(monkeypatch, LastQueryLost()):
        outcome = choose_for(ATTENTION, flash=0.1)
    assert outcome.chosen == "efficient"
    assert outcome.out.keys() == {"flash"}
    assert "off by" in outcome.out["flash"]


def test_where_no_kernel_is_right_plain_attention_runs(monkeypatch):
    broken = type("Broken", (StandIns,), {"_check": lambda *_: 1 / 0})
    with cuda_bodies(monkeypatch, broken()):
        outcome = choose_for(ATTENTION)
        assert outcome.chosen == PLAIN
        assert all("raises ZeroDivisionError" in reason for reason in outcome.out.values())
    ops = Ops()
    apply({key(ATTENTION): PLAIN}, [ATTENTION], ops)
    assert ops.varlen_attention is plain_attention


@pytest.mark.parametrize("fastest", ["addmm", "mm and add", "upcast"])
def test_weight_gradients_take_the_faster_product(fastest):
    outcome = choose_for(GRADIENT, **{fastest: 0.5})
    assert (outcome.out, outcome.chosen) == ({}, fastest)


def test_a_product_that_rounds_before_it_adds_is_out(monkeypatch):
    monkeypatch.setattr(torch, "addmm", rounding_addmm)
    outcome = choose_for(GRADIENT, addmm=0.1)
    assert outcome.chosen == "mm and add"
    assert "all off by" in outcome.out["addmm"]


@pytest.mark.parametrize("fastest", [0, 2, 4])
def test_the_packing_pass_takes_the_fastest_tile(fastest):
    name = candidates_of(PACKING)[fastest].name
    outcome = choose_for(PACKING, **{name: 0.5})
    assert (outcome.chosen, outcome.out) == (name, {})


def test_a_step_runs_on_what_was_chosen_and_its_checkpoint_says_so(monkeypatch):
    """Every problem of a bf16 step's library, chosen against the default, remembered, and taken again on resume."""
    monkeypatch.setattr(choose, "RAGGED_ROWS", 5)
    step = make_step(torch.bfloat16, hidden_dropout_prob=0.0)
    problems = tuning.problems_of(step)
    assert {problem.op for problem in problems} == {
        "attention", "attention_of_some", "weight_gradient", "pack_gradients"
    }  # fmt: skip
    seconds = {"efficient": 0.5, "upcast": 0.5, "torch": 0.5}
    choice = tuning.tune_step(step, "auto", 60.0, {}, Table(problems, seconds), lambda problem: 5)
    assert choice == {key(p): name for p in problems for name in seconds if name in {c.name for c in candidates_of(p)}}

    def losses(step) -> list[torch.Tensor]:
        step.micro_step()
        return [step.sums.clone(), step.flat.grad.clone()]

    def refused(*_, **__):
        raise AssertionError("a default runs that was not chosen")

    with cuda_bodies(monkeypatch) as kernels:
        monkeypatch.setattr(torch, "addmm", refused)
        chosen = losses(step)
        assert set(kernels.calls) == {"efficient forward", "efficient backward"}
        with candidates.running({p: candidates_of(p)[0] for p in problems}):
            monkeypatch.setattr(torch, "addmm", addmm)
            again = losses(make_step(torch.bfloat16, hidden_dropout_prob=0.0))
        torch.testing.assert_close(chosen, again, rtol=2e-2, atol=2e-2)
        candidates.choose({p: candidates_of(p)[0] for p in problems})
        resumed = make_step(torch.bfloat16, hidden_dropout_prob=0.0)
        assert tuning.tune_step(resumed, "off", 0.0, choice, Table(problems, {})) == choice
        monkeypatch.setattr(torch, "addmm", refused)
        assert all(map(torch.equal, losses(resumed), chosen))
    assert (
        main_grad.accumulate_product_upcast
        is candidates.chosen(next(p for p in problems if p.op == "weight_gradient")).options
    )
