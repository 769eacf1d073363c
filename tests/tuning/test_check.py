"""The check sees one row in thousands, cut-off bits and leaks between sequences, and passes what is right."""

import pytest
import torch

from albert_fast.kernels.candidates import Problem
from albert_fast.ops import Ops, get_ops
from albert_fast.tuning.cases import Maker, cases
from albert_fast.tuning.check import errors, fault

CPU = torch.device("cpu")
FEED_FORWARD = Problem("gelu_ffn_forward", "sm_90", "float32", 16, 48, 32)
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here, not interpreted")


def truncated(result):
    """bf16 by cutting bits off, as a cast without rounding does."""
    bits = result[0].float().view(torch.int32) & ~0xFFFF
    return [bits.view(torch.float32).to(result[0].dtype), *result[1:]]


def test_one_row_of_many_that_is_dropped_shows_in_the_worst_row_alone():
    truth = torch.randn(60_000, 16)
    rounded = truth.bfloat16()
    dropped = rounded.clone()
    dropped[123] = 0
    (whole, row, _), (_, plain_row, _) = errors(dropped, truth), errors(rounded, truth)
    assert whole < 2 * errors(rounded, truth)[0] + torch.finfo(torch.bfloat16).eps / 4
    assert row > 0.3 > 10 * plain_row


def test_cut_off_bits_are_refused_and_rounded_ones_are_not():
    """Cut off, errors are twice those of rounding, which the rule of two alone lets pass."""
    case = cases(FEED_FORWARD._replace(dtype="bfloat16"), 77, Maker(CPU, torch.bfloat16))[0]
    plain = Ops().gelu_ffn
    assert fault(case, plain, plain, torch.bfloat16) is None

    def exact_then_cut(x, *rest, activation):
        wide = plain(x.float(), *(value.float() for value in rest), activation=activation)
        return wide + (truncated([wide.detach()])[0] - wide.detach())

    assert "shrinkage" in fault(case, exact_then_cut, plain, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", [
    "gelu_ffn_forward", "add_layer_norm_backward", "embed_layer_norm_forward", "gelu_layer_norm_forward",
    "linear_cross_entropy",
])  # fmt: skip
def test_our_kernels_pass_the_check(op, dtype):
    problem = Problem(op, "sm_90", str(dtype).removeprefix("torch."), 128, 40, 24)
    for case in cases(problem, 77, Maker(CPU, dtype)):
        assert fault(case, getattr(get_ops("triton"), case.op), getattr(Ops(), case.op), dtype) is None


def test_attention_is_checked_with_empty_sequences():
    for op in ("attention", "attention_of_some"):
        problem, attention = Problem(op, "sm_90", "float32", 64, 16, 8, 20), Ops().varlen_attention
        even, case = cases(problem, 64, Maker(CPU, torch.float32))
        assert case.arguments[1].diff().tolist() == [0, 11, 0, 1, 20, 7, 0]
        assert even.arguments[1].tolist() == [0, 20, 40, 60, 64]
        assert fault(case, attention, case.reference(), torch.float32) is None

        def leaks(qkv, edges, longest, *rest, attention=attention):  # a key of the next sequence
            return attention(qkv, edges + (edges == 12), longest + 1, *rest)

        assert "off by" in fault(case, leaks, case.reference(), torch.float32)
