"""Rows, classes and totals of a priced step add up."""

import pytest
from support.ledger_steps import H100, T, spec

from albert_fast.measure.pricing import price


@pytest.mark.parametrize("ffn", ["library", "ours"])
def test_rows_and_classes_add_up(ffn):
    priced = price(spec(num_hidden_layers=2), H100, ffn)
    document = priced.document()
    assert sum(row["seconds"] for row in document["rows"]) == pytest.approx(document["seconds"])
    assert sum(row["launches"] for row in document["rows"]) == document["launches"]
    assert sum(priced.classes.values()) == pytest.approx(document["seconds"])
    assert 0 < document["floor_seconds"] < document["seconds"]
    assert document["tokens_per_second"] * document["seconds"] == pytest.approx(T)
    assert {row["phase"] for row in document["rows"]} == {"forward", "backward", "update"}
    names = " ".join(row["op"] for row in document["rows"])
    assert ("gelu_forward_kernel" in names) == (ffn == "library")
    assert ("linear_gelu_kernel" in names) == (ffn == "ours")
