"""Rows, classes and totals of a priced step add up."""

import pytest
from support.ledger_steps import H100, S, T, spec

from albert_fast.cards import Card
from albert_fast.flops import step_flops
from albert_fast.kernels.cost import Cost
from albert_fast.measure.ledger import Entry
from albert_fast.measure.pricing import class_seconds, floor_seconds, price, price_rows

ROUND = Card(
    name="round", peak_flops=1e15, product_flops=5e14, own_product_flops=4e14, flash_forward_flops=2e14,
    flash_backward_flops=1e14, bytes_per_second=1e12, launch_seconds=1e-6, link_bytes_per_second=1e11, source="a test",
)  # fmt: skip
GB, TERA = 10**9, 10**12
ENTRIES = [
    Entry("forward", "a", Cost("library", 1 * GB, 1 * TERA, 3, "product"), 3),  # 1 ms of bytes, 2 ms of products
    Entry("forward", "a", Cost("gelu_kernel", 3 * GB, 1 * TERA, 1, "product")),  # 3 ms of bytes, 2.5 ms of ours
    Entry("backward", "b", Cost("_flash_attention_backward", 0, 1 * TERA, 2, "attention")),  # 10 ms
    Entry("forward", "b", Cost("_flash_attention_forward", 0, 1 * TERA, 2, "attention")),  # 5 ms
    Entry("forward", "c", Cost("layer_norm_kernel", 4 * GB, 0, 1, "layer_norm", least_bytes=2 * GB)),  # 4 ms, or 2
    Entry("backward", "d", Cost("add", 1 * GB, 0, 2000)),  # 1 ms, and 2 ms of launches
    Entry("update", "e", Cost("lamb_kernel", 6 * GB, 0, 5, least_bytes=5 * GB)),  # 6 ms, or 5
    Entry("update", "f", Cost("zero_", 1 * GB)),  # 1 ms, with others in one pass nothing
]  # fmt: skip


def test_prices_are_what_a_hand_works_out():
    rows = {(row.phase, row.op): row for row in price_rows(ENTRIES, ROUND)}
    assert {key: round(1e3 * row.seconds, 6) for key, row in rows.items()} == {
        ("forward", "a"): 5.004, ("backward", "b"): 10.002, ("forward", "b"): 5.002, ("forward", "c"): 4.001,
        ("backward", "d"): 3.0, ("update", "e"): 6.005, ("update", "f"): 1.001,
    }  # fmt: skip
    a, d = rows["forward", "a"], rows["backward", "d"]
    assert (a.count, a.bytes, a.flops, a.launches, a.bound, a.kind) == (4, 4 * GB, 2 * TERA, 4, "FLOPs", "product")
    assert (d.bound, rows["update", "e"].bound) == ("launch", "memory")
    seconds = [row.seconds for row in price_rows(ENTRIES, ROUND)]
    assert seconds == sorted(seconds, reverse=True)
    classes = class_seconds(rows.values(), ROUND)
    assert {name: round(1e3 * s, 6) for name, s in classes.items()} == {
        "products": 5.0, "attention": 15.0, "LayerNorm": 4.0, "other memory traffic": 8.0, "launches": 2.015,
    }  # fmt: skip
    # Products, attention, LayerNorm at its least and the update at its own, with their launches.
    assert floor_seconds(ENTRIES, ROUND) == pytest.approx(5.004e-3 + 15.004e-3 + 2.001e-3 + 5.005e-3)


def test_micro_batches_add_tokens_and_flops():
    one, two = (price(spec(train={"gradient_accumulation_steps": n}), H100) for n in (1, 2))
    assert two.tokens_per_second * two.seconds == pytest.approx(2 * T)
    assert two.mfu * two.seconds == pytest.approx(2 * one.mfu * one.seconds)


@pytest.mark.parametrize("ffn", ["library", "ours"])
def test_rows_and_classes_add_up(ffn):
    priced = price(spec(num_hidden_layers=2), H100, ffn)
    document = priced.document()
    assert sum(row["seconds"] for row in document["rows"]) == pytest.approx(document["seconds"])
    assert sum(row["launches"] for row in document["rows"]) == document["launches"]
    assert sum(priced.classes.values()) == pytest.approx(document["seconds"])
    assert 0 < document["floor_seconds"] < document["seconds"]
    assert document["tokens_per_second"] * document["seconds"] == pytest.approx(T)
    places = len(spec().batch().sentence_order_weights), len(spec().batch().masked_lm_positions)
    flops = step_flops(spec(num_hidden_layers=2).config, T, S, *places)
    assert document["mfu"] * H100.peak_flops * document["seconds"] == pytest.approx(flops)
    assert {row["phase"] for row in document["rows"]} == {"forward", "backward", "update"}
    names = " ".join(row["op"] for row in document["rows"])
    assert ("gelu_forward_kernel" in names) == (ffn == "library")
    assert ("linear_gelu_kernel" in names) == (ffn == "ours")
