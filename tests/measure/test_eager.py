"""Eager peers compute what our ops compute, and both are timed."""

import pytest
import torch

from albert_fast import ops
from albert_fast.config import AlbertConfig
from albert_fast.measure import eager


def test_every_op_is_timed_beside_its_peer() -> None:
    config = AlbertConfig.from_preset("tiny", vocab_size=50, hidden_size=24, num_attention_heads=2)
    timings = eager.time_ops(config, 16, ops.Ops(), torch.device("cpu"), torch.float32)
    assert [t.rows for t in timings] == [16, 16, 2]
    assert all(t.eager_seconds > 0 and t.our_seconds > 0 for t in timings)
    assert timings[0].ratio == timings[0].eager_seconds / timings[0].our_seconds


@pytest.mark.parametrize("name", ["add_layer_norm", "gelu_ffn"])
def test_peers_compute_what_ours_compute(name: str) -> None:
    torch.manual_seed(0)
    shapes = {"add_layer_norm": [(5, 8), (8,), (5, 8), (8,), (8,)], "gelu_ffn": [(5, 8), (16, 8), (16,), (8, 16)]}[name]
    inputs = [torch.randn(shape) for shape in shapes]
    torch.testing.assert_close(getattr(ops, name)(*inputs), getattr(eager, name)(*inputs))


def test_peer_of_the_decoder_computes_what_ours_computes() -> None:
    torch.manual_seed(0)
    x, weight, bias, targets = torch.randn(5, 8), torch.randn(30, 8), torch.randn(30), torch.randint(30, (5,))
    loss, _ = ops.linear_cross_entropy(x, weight, bias, targets, torch.ones(5))
    torch.testing.assert_close(loss, eager.linear_cross_entropy(x, weight, bias, targets))
