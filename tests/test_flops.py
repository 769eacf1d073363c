"""The list of products is what the ledger of the real step holds."""

from support.ledger_steps import E, H, S, T, spec

from albert_fast.flops import step_products
from albert_fast.measure.ledger import record


def test_flops_are_those_of_the_list_of_products():
    """MFU's numerator: what a step must do, the pooler and the sentence-order head left out."""
    asked = spec(num_hidden_layers=3)
    batch = asked.batch()
    slots, predictions = len(batch.sentence_order_weights), len(batch.masked_lm_positions)
    listed = step_products(asked.config, T, S, slots, predictions)
    expected = sum(product.flops for product in listed if "attention" not in product.name.split(","))
    entries = record(asked)
    expected += 3 * 2 * slots * H * (H + 2)  # the two heads
    config = asked.config  # tables so small that the sums of their rows are products
    expected += 2 * T * (H * (config.max_position_embeddings + config.type_vocab_size) + E * config.vocab_size)
    done = sum(e.cost.flops for e in entries if e.cost.kind == "product")
    assert expected <= done <= 1.005 * expected


def test_products_cover_forward_and_backward():
    kinds = [p.kind for p in step_products(spec().config, 256, 64, 8, 48) if p.name == "decoder"]
    assert kinds == ["forward", "data", "weight"]
