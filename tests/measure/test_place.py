"""Ops are named after the part of the model that they work for, forward and backward."""

from support.ledger_steps import spec

from albert_fast.measure.ledger import record


def test_parts_of_the_model_are_named_in_both_directions():
    entries = record(spec(num_hidden_layers=2))
    for phase in ("forward", "backward"):
        parts = {e.op.partition(":")[0] for e in entries if e.phase == phase}
        for part in ("attention.query_key_value", "feed_forward", "embeddings", "mlm_head"):
            assert any(found.startswith(part) for found in parts), (phase, part, parts)
