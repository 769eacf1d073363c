"""How long a run takes on several cards."""

import pytest
from support.ledger_steps import H100, spec

from albert_fast.measure.plan import plan
from albert_fast.measure.pricing import price


def test_a_run_is_planned_with_its_all_reduce():
    priced = price(spec(), H100)
    alone, eight = (plan(priced, 1_000_000, gpus, 1e9) for gpus in (1, 8))
    assert alone.all_reduce_seconds == 0
    assert alone.hours == pytest.approx(1e9 / priced.tokens_per_second / 3600)
    assert eight.all_reduce_seconds == pytest.approx(2 * 7 / 8 * 4e6 / H100.link_bytes_per_second)
    assert eight.steps == pytest.approx(alone.steps / 8)
    assert eight.gpu_hours > alone.gpu_hours
