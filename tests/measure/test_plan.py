"""How long a run takes on several cards."""

import pytest
from support.ledger_steps import H100, spec

from albert_fast.measure.ledger_report import PUBLISHED_MISS
from albert_fast.measure.plan import Plan, plan, plan_text
from albert_fast.measure.pricing import price


def test_a_run_is_planned_with_its_all_reduce():
    priced = price(spec(), H100)
    alone, eight = (plan(priced, 1_000_000, gpus, 1e9) for gpus in (1, 8))
    assert alone.all_reduce_seconds == 0
    assert alone.hours == pytest.approx(1e9 / priced.tokens_per_second / 3600)
    assert eight.all_reduce_seconds == pytest.approx(2 * 7 / 8 * 4e6 / H100.link_bytes_per_second)
    assert eight.steps == pytest.approx(alone.steps / 8)
    assert eight.gpu_hours > alone.gpu_hours


def test_a_plan_is_told_in_the_units_of_people():
    found = Plan(8, 1e11, 190_735, step_seconds=0.0745, all_reduce_seconds=0.00115, hours=3.95, gpu_hours=31.6)
    assert plan_text(found, price(spec(), H100)) == (
        "100 billion tokens on 8 h100: 190,735 steps of 74.5 ms, of which 1.15 ms all-reduce over 360 GB/s links: "
        f"4.0 hours, 31.6 GPU-hours.\nA lower bound: published runs take about {PUBLISHED_MISS:.1f} times as long, "
        f"that is {PUBLISHED_MISS * 3.95:.1f} hours.\n"
    )
