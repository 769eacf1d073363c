"""A micro-batch of full sequences has the loader's capacities, and room at any length."""

import pytest
from support.memory_steps import small

from albert_fast.measure.batch import full_batch


def test_batch_has_the_loaders_capacities():
    batch = full_batch(small(), 2048, 128)
    assert batch.cu_seqlens.shape == (27 + 15 + 1,)  # the most examples, and padding where each of them is the shortest
    assert batch.cu_seqlens[16] == batch.cu_seqlens[-1] == 2048
    assert batch.masked_lm_positions.shape == (320,)  # ceil(2048 * .15) + 4, in sixteens


@pytest.mark.parametrize("length", [5, 16, 17, 512])
def test_batch_is_full_and_has_room_at_any_length(length):
    batch = full_batch(small(), 1024, length)
    assert batch.cu_seqlens[-1] == 1024
    assert batch.num_sequences == 1024 // length == batch.sentence_order_weights.sum()


def test_full_batch_predicts_each_position_once():
    batch = full_batch(small(), 300, 64)
    used = batch.masked_lm_positions[: batch.num_predictions]
    assert len(set(used.tolist())) == batch.num_predictions
    assert used.max() < batch.num_tokens == 256
