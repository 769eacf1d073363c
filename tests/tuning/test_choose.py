"""The card's choice at toy shapes, kernels interpreted and the clock injected: right before fast, and no surprises."""

import math

import pytest
import torch
from support.clocks import Table

from albert_fast.kernels import candidates
from albert_fast.kernels.candidates import Problem, candidates_of
from albert_fast.ops import Ops, get_ops
from albert_fast.tuning import choose
from albert_fast.tuning.choose import PLAIN, Outcome, apply, key, lacking, tune

CPU = torch.device("cpu")
FEED_FORWARD = Problem("gelu_ffn_forward", "sm_90", "bfloat16", 16, 48, 32)
LAYER_NORM = Problem("add_layer_norm_backward", "sm_90", "float32", 16, 40)
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here, not interpreted")


@pytest.fixture(autouse=True)
def _choices_end_with_the_test():
    with candidates.running({}):
        yield


def names(problem: Problem) -> list[str]:
    return [candidate.name for candidate in candidates_of(problem)]


def run(seconds: dict[str, float], problem: Problem = FEED_FORWARD, budget: float = 60.0, ops: Ops | None = None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "ROUNDS", 3)
        (outcome,) = tune([problem], ops or get_ops("triton"), Table([problem], seconds), budget, CPU) or [None]
    return outcome


def test_the_fastest_right_candidate_is_taken_and_applied():
    library, first, *_ = names(FEED_FORWARD)
    outcome = run({library: 2.0, first: 1.0})
    assert (outcome.chosen, outcome.out) == (first, {})
    assert outcome.seconds[library] == 2.0
    apply({key(FEED_FORWARD): first}, [FEED_FORWARD], get_ops("triton"))
    assert candidates.chosen(FEED_FORWARD).name == first


@pytest.mark.parametrize(("ours", "wins"), [(1.0, False), (0.98, False), (0.96, True), (1.5, False)])
def test_a_candidate_must_win_by_three_percent(ours, wins):
    library, first, *_ = names(FEED_FORWARD)
    assert run({first: ours}).chosen == (first if wins else library)


def test_a_budget_of_nothing_keeps_the_defaults():
    assert run({}, budget=0.0) is None


def test_a_spent_budget_checks_the_default_and_times_no_other():
    outcome = run(dict.fromkeys(names(LAYER_NORM)[1:], 0.1), LAYER_NORM, budget=1e-6)
    assert outcome == Outcome(LAYER_NORM, names(LAYER_NORM)[0])


def dropped_row(result):
    result[5] = 0
    return result


def swapped_mask(result):
    return result.flip(0)


def not_a_number(result):
    result[3, 1] = math.nan
    return result


def raising(_):
    raise RuntimeError("PassManager::run failed\nand what the compiler says besides")


def planted(fault) -> Ops:
    """Ops whose feed-forward goes wrong."""
    right = get_ops("triton").gelu_ffn

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, result):
            return fault(result.clone())

        @staticmethod
        def backward(ctx, grad):
            return grad

    return Ops("planted", gelu_ffn=lambda *arguments, **keywords: Wrong.apply(right(*arguments, **keywords)))


@pytest.mark.parametrize(
    ("planting", "said"),
    [
        (dropped_row, "off by"),
        (swapped_mask, "off by"),
        (not_a_number, "not finite"),
        (raising, "raises RuntimeError: PassManager::run failed"),
    ],
)
def test_what_is_wrong_is_out_with_one_line_and_the_plain_op_runs(planting, said):
    ops = planted(planting)
    outcome = run({}, ops=ops)
    assert outcome.chosen == PLAIN
    assert outcome.out.keys() == set(names(FEED_FORWARD))
    assert all(said in line and "\n" not in line for line in outcome.out.values())
    apply({key(FEED_FORWARD): PLAIN}, [FEED_FORWARD], ops)
    assert ops.gelu_ffn is Ops().gelu_ffn


def test_the_loss_is_timed_with_the_gradients_that_training_makes():
    decoder = Problem("linear_cross_entropy", "sm_90", "float32", 16, 48, 32)
    made = []

    class Noting(Table):
        def prepare(self, run):
            made.append(run())
            return super().prepare(run)

    tune([decoder], get_ops("triton"), Noting([decoder], {}), 60.0, CPU)
    assert len(made) == len(names(decoder))
    assert [x.shape for x in made[0]] == [(16, 32), (48, 32), (48,)]


def test_a_candidate_that_cannot_be_captured_is_out():
    class Refusing(Table):
        def prepare(self, run):
            if self.names() != names(FEED_FORWARD)[:1]:
                raise RuntimeError("not captured at aten.mm: no")
            return super().prepare(run)

    (outcome,) = tune([FEED_FORWARD], get_ops("triton"), Refusing([FEED_FORWARD], {}), 60.0, CPU)
    assert outcome.chosen == names(FEED_FORWARD)[0]
    assert set(outcome.out) == set(names(FEED_FORWARD)[1:])


def test_a_choice_that_this_card_lacks_is_missing():
    elsewhere = {key(FEED_FORWARD._replace(architecture="sm_80")): names(FEED_FORWARD)[0]}
    assert lacking(elsewhere, [FEED_FORWARD]) == [FEED_FORWARD]
    assert lacking({key(FEED_FORWARD): "a tile of long ago"}, [FEED_FORWARD]) == [FEED_FORWARD]
    assert lacking({key(FEED_FORWARD): PLAIN}, [FEED_FORWARD]) == []
