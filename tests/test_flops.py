"""The list of products matches the ledger of a real step."""

from support.ledger_steps import E, H, S, T, spec

from albert_fast.flops import step_products
from albert_fast.measure.ledger import record


def test_flops_match_those_of_a_recorded_step():
    """MFU's numerator leaves out the pooler and the sentence-order head."""
    step = spec(num_hidden_layers=3)
    batch = step.batch()
    slots, predictions = len(batch.sentence_order_weights), len(batch.masked_lm_positions)
    listed = step_products(step.config, T, S, slots, predictions)
    expected = sum(product.flops for product in listed if "attention" not in product.name.split(","))
    entries = record(step)
    expected += 3 * 2 * slots * H * (H + 2)  # the two heads
    config = step.config  # gradients of such small tables are computed by matrix products
    expected += 2 * T * (H * (config.max_position_embeddings + config.type_vocab_size) + E * config.vocab_size)
    recorded = sum(e.cost.flops for e in entries if e.cost.kind == "product")
    assert expected <= recorded <= 1.005 * expected
