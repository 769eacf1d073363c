"""The ledger of a step agrees with sums made by hand, with PyTorch's count of FLOPs, and adds up."""

import torch
from support.ledger_steps import F, H, S, T, spec, totals
from torch.utils.flop_counter import FlopCounterMode

from albert_fast.measure.ledger import Ledger, record


def test_a_layer_is_what_a_hand_sums():
    """Two layers, of which the first works for all tokens: bf16 is two bytes, main_grad fp32."""
    entries = record(spec(num_hidden_layers=2))
    batch = spec().batch()
    read = len(batch.sentence_order_weights) + len(batch.masked_lm_positions)  # the tokens of the last layer
    x, z, weight = 2 * T * H, 2 * T * F, 2 * H * F
    last_x, last_z = 2 * read * H, 2 * read * F
    # forward: x, W1, b1 -> z; z -> h; h, W2 -> x.
    library = 2 * (x + last_x + z + last_z + 2 * weight) + 2 * 2 * F
    assert totals(entries, "gelu_ffn (library)") == (library, 4 * (T + read) * H * F, 4)
    assert totals(entries, "gelu_forward_kernel") == (2 * (z + last_z), 0, 2)
    # backward: both gradients of weights read their two operands, read and write fp32 [F, H].
    gradients = totals(entries, "feed_forward", "accumulate_product")
    assert gradients == (2 * (x + last_x + z + last_z) + 4 * 2 * 4 * H * F, 4 * (T + read) * H * F, 4)
    # the first layer's q, k, v; attention: 2 products of S keys a query forward, 5 backward, in 3 launches.
    assert totals(entries, "attention", "addmm")[1] == 2 * T * H * 3 * H + 2 * T * H * 2 * H + 2 * read * H * H
    assert totals(entries, "flash_attention_forward")[1:] == (4 * (T + read) * S * H, 2)
    assert totals(entries, "flash_attention_backward")[1:] == (10 * (T + read) * S * H, 6)


def test_flops_are_those_that_pytorch_counts():
    """On the plain ops, inside which its counter sees; of attention for CPUs it does not know."""
    asked = spec("cpu", num_hidden_layers=2)
    step = asked.build_on_meta()
    # It knows addmm, but not addmm_; it hands shapes to what it is given.
    in_place = {torch.ops.aten.addmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * b[1]}
    counter, ledger = FlopCounterMode(display=False, custom_mapping=in_place), Ledger(step.model, asked.bodies())
    with torch.device("meta"), counter, ledger:
        step.micro_step()
    products = sum(e.cost.flops for e in ledger.entries if e.cost.kind == "product")
    assert products == counter.get_total_flops() > 3 * 2 * T * H * F


def test_micro_batches_repeat_all_but_the_update():
    one, three = (record(spec(train={"gradient_accumulation_steps": n})) for n in (1, 3))
    for phase, factor in (("forward", 3), ("backward", 3), ("update", 1)):
        expected = [factor * n for n in totals(one, phase=phase)]
        assert list(totals(three, phase=phase)) == expected


def test_recomputing_costs_flops():
    def flops(recompute: str) -> int:
        entries = record(spec(train={"recompute": recompute}))
        return sum(e.cost.flops for e in entries if not e.op.startswith("embeddings"))

    assert 1.2 * flops("none") < flops("layer") < 1.4 * flops("none")
