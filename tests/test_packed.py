"""Padded input brought to packed form: the same states, alone or beside other sequences, padded on either side."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from support.steps import make_batch
from support.tiny_models import padded_batch, pretraining_losses, tiny_config

from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError
from albert_fast.packed import PretrainingBatch, pack

COMBINATIONS = list(product(("all", "ffn", "attention", "None"), ("postln", "preln"), ("zh", "google")))


@pytest.mark.parametrize(("share_type", "ln_type", "layout"), COMBINATIONS)
def test_padded_equals_packed_equals_alone(share_type, ln_type, layout):
    config = tiny_config(share_type=share_type, ln_type=ln_type, layout=layout)
    model = AlbertForPreTraining(config)
    ids, mask, types, positions = padded_batch(config.vocab_size)
    output = model(ids, mask, types, positions, output_hidden_states=True)
    assert output.prediction_logits.shape == (3, 3, 61)
    assert len(output.hidden_states) == 5
    torch.testing.assert_close(output.hidden_states[-1], output.last_hidden_state)
    packed, _ = pack(ids, mask, types)
    torch.testing.assert_close(model.albert(packed), output.last_hidden_state[mask.bool()])
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = model(ids[row : row + 1, :length], None, types[row : row + 1, :length], positions[row : row + 1])
        torch.testing.assert_close(alone.last_hidden_state[0], output.last_hidden_state[row, :length])
        torch.testing.assert_close(alone.prediction_logits[0], output.prediction_logits[row])
        torch.testing.assert_close(alone.sop_logits[0], output.sop_logits[row])
    with torch.no_grad():
        loss = pretraining_losses(model, ids, mask, types, positions)
        flat = F.cross_entropy(output.prediction_logits.flatten(0, 1), ids.gather(1, positions).flatten())
    torch.testing.assert_close(loss.mlm_loss, flat)


def test_padding_on_the_left_moves_positions_alone():
    """A token's position is its column; the pooler reads the first real token, not padding."""
    torch.manual_seed(0)
    model = AlbertForPreTraining(tiny_config()).eval()
    ids = torch.randint(5, 40, (2, 9))
    mask = torch.ones(2, 9).long()
    mask[1, :3] = 0
    output = model(ids, mask)
    torch.testing.assert_close(output.pooler_output[1], model.albert.pool(output.last_hidden_state[1, 3]))
    torch.testing.assert_close(output.pooler_output[0], model(ids[:1]).pooler_output[0])


def test_pack_keeps_columns_as_positions_and_unpack_lays_them_back():
    ids, mask = torch.tensor([[7, 8, 0], [0, 9, 0]]), torch.tensor([[1, 1, 0], [0, 1, 0]])
    packed, unpack = pack(ids, mask)
    assert packed.input_ids.tolist() == [7, 8, 9]
    assert packed.position_ids.tolist() == [0, 1, 1]
    assert packed.cu_seqlens.tolist() == [0, 2, 3]
    assert torch.equal(unpack(packed.input_ids), ids)
    with pytest.raises(UserError, match=r"attention_mask \[2, 2\] must have"):
        pack(ids, mask[:, :2])


def test_the_heads_read_first_and_masked_tokens():
    batch = PretrainingBatch.from_loader(make_batch(0), torch.device("cpu"))
    tokens, real = len(batch.input_ids), int((batch.masked_lm_weights > 0).sum())
    slots = len(batch.sentence_order_labels)
    found = batch.head_positions().tolist()
    assert found[:2] == [0, int(batch.cu_seqlens[1])]
    assert found[slots : slots + real] == batch.masked_lm_positions[:real].tolist()
    assert set(found[slots + real :]) <= {tokens}
